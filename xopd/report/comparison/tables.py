"""The three tables of a comparison: methods, ablation, retention; beside each model the paper's figure of its like."""

from __future__ import annotations

from collections.abc import Sequence

from xopd.report.comparison.read import Entry, Part
from xopd.report.comparison.statistics import EntryFigures, Figures, OverSeeds
from xopd.report.tables import Column, Interval, Number, Row, Table, Value

SPOKEN: tuple[Part, Part] = ("speech", "text")
LABEL, SEEDS = Column("method", "Method", "text"), Column("seeds", "Seeds", "text")
SCORES = (
    LABEL,
    SEEDS,
    Column("speech", "Speech (%)", "spread"),
    Column("text", "Text (%)", "spread"),
    Column("drop_speech", "Drop speech (%)", "spread"),
    Column("drop_text", "Drop text (%)", "spread"),
    Column("paper_drop_speech", "Paper: drop speech (%)", "number", paper=True),
    Column("paper_drop_text", "Paper: drop text (%)", "number", paper=True),
)
RETENTION = (
    LABEL,
    SEEDS,
    Column("retention", "Retention (%)", "spread"),
    Column("change", "Change from base (points)", "spread"),
    Column("interval", "95 % interval (points)", "interval"),
    Column("paper_mmar", "Paper: MMAR (%)", "text", paper=True),
)
PAPER_DROPS: dict[str, tuple[float, float]] = {
    "base": (11.29, 5.51),
    "sft": (22.76, 17.49),
    "offline_kd": (19.62, 15.02),
    "gkd": (20.23, 15.81),
    "xopd": (3.43, 0.97),
    "text_only": (6.91, 2.43),
    "speech_only": (5.08, 2.52),
    "larger_teacher": (5.55, 2.23),
}
"""The paper's drop of speech and of text against the text-only teacher (%): arXiv 2603.24596, tables 1 and 2."""
PAPER_MMAR = {"base": "71.3", "sft": "60.3", "offline_kd": "59.9", "gkd": "60.0", "xopd": "69.3 to 70.7"}
"""The paper's accuracy on MMAR (%): arXiv 2603.24596, table 3."""
ABOUT_DROP = "Drop = 100 · (teacher's text score − score) / teacher's text score: lower is better."
ABOUT_SPREAD = "Mean ± sample standard deviation over seeds, test split, greedy answers."
ABOUT_PAPER = "The columns of the paper (arXiv 2603.24596) are its own figures on other models and data."


def tables_of(figures: Figures) -> tuple[Table, Table, Table]:
    """Methods, ablation, and retention."""
    reference = figures.comparison.manifest.reference
    methods = [f for f in figures.entries if f.entry.group == "methods"]
    ablation = [f for f in figures.entries if f.entry.name == reference or f.entry.group == "ablation"]
    ablation.sort(key=lambda f: f.entry.name != reference)
    return (
        _scores("table1", "Methods", figures, methods),
        _scores("table2", "Ablation", figures, ablation),
        _retention(figures),
    )


def _scores(name: str, title: str, figures: Figures, entries: Sequence[EntryFigures]) -> Table:
    rows = []
    if figures.teacher is not None:
        teacher = Number(100 * figures.teacher.accuracy)
        rows.append(Row("teacher", ("Teacher, text only", "", None, teacher, None, None, None, None), "teacher"))
    if figures.base:
        scores = [_number(100 * figures.base[part].accuracy if part in figures.base else None) for part in SPOKEN]
        drops = [_number(figures.base_drops.get(part)) for part in SPOKEN]
        rows.append(Row("base", ("Base student", "", *scores, *drops, *_paper_drops("base")), "base"))
    for found in entries:
        spreads = (
            *(_spread(found.scores.get(part), 100) for part in SPOKEN),
            *(_spread(found.drops.get(part)) for part in SPOKEN),
        )
        rows.append(_row(figures, found, *spreads, *_paper_drops(_paper_row(found.entry))))
    notes = [
        f"{found.entry.title}: its own teacher scores {100 * found.teacher.accuracy:.1f} % on text; the drops are"
        f" measured against the teacher of {figures.comparison.reference.title} all the same."
        for found in entries
        if found.teacher is not None
    ]
    notes += _unfinished(figures, entries)
    if len(entries) < 2:
        notes.append("No others of this table were part of the comparison.")
    caption = f"{_budget(figures)}. {ABOUT_SPREAD} {ABOUT_DROP} {ABOUT_PAPER}"
    return Table(SCORES, tuple(rows), tuple(notes), name, title, caption)


def _retention(figures: Figures) -> Table:
    base = figures.base.get("retention")
    rows = []
    if base is not None:
        score = Number(100 * base.accuracy)
        rows.append(Row("base", ("Base student", "", score, None, None, PAPER_MMAR["base"]), "base"))
    for found in figures.entries:
        kept, difference = found.scores.get("retention"), found.paired.get("retention")
        change = None
        if kept is not None and base is not None:
            sd = None if kept.sd is None else 100 * kept.sd
            change = Number(100 * (kept.mean - base.accuracy), sd, signed=True)
        interval = None if difference is None else Interval(*(100 * bound for bound in difference.ci95))
        paper = PAPER_MMAR.get(_paper_row(found.entry) or "")
        rows.append(_row(figures, found, _spread(kept, 100), change, interval, paper))
    caption = (
        f"What the student keeps of skills that are not trained on. {_budget(figures)}. {ABOUT_SPREAD}"
        f" The interval is a paired bootstrap over items of final minus base, an item's value being its mean over"
        f" seeds. {ABOUT_PAPER}"
    )
    notes = tuple(_unfinished(figures, figures.entries))
    return Table(RETENTION, tuple(rows), notes, "table3", "Retention", caption)


def _row(figures: Figures, found: EntryFigures, *values: Value) -> Row:
    manifest = figures.comparison.manifest
    planned = len(manifest.seeds)
    seeds = str(planned) if len(found.seeds) == planned else f"{len(found.seeds)} of {planned}"
    reference = found.entry.name == manifest.reference
    return Row(found.entry.name, (found.entry.title, seeds, *values), "reference" if reference else "entry")


def _budget(figures: Figures) -> str:
    manifest = figures.comparison.manifest
    return f"{manifest.steps:,} steps of {manifest.batch_prompts} items for every method, on the same data"


def _number(value: float | None) -> Number | None:
    return None if value is None else Number(value)


def _spread(found: OverSeeds | None, scale: float = 1.0) -> Number | None:
    if found is None:
        return None
    return Number(scale * found.mean, None if found.sd is None else scale * found.sd)


def _paper_row(entry: Entry) -> str | None:
    """The paper's row of the same method and variant, as a key of PAPER_DROPS; None where it has none."""
    if entry.method != "xopd":
        return entry.method if entry.method in PAPER_DROPS else None
    weight = entry.settings.get("objective.lambda")
    if weight in (0, 1):
        return "speech_only" if weight else "text_only"
    if entry.group == "methods":
        return "xopd"
    return "larger_teacher" if "teacher" in f"{entry.name} {entry.label}".lower() else None


def _paper_drops(row: str | None) -> tuple[Value, Value]:
    if row is None:
        return None, None
    speech, text = PAPER_DROPS[row]
    return Number(speech, digits=2), Number(text, digits=2)


def _unfinished(figures: Figures, entries: Sequence[EntryFigures]) -> list[str]:
    names = {found.entry.name for found in entries}
    missing = [
        f"{entry.title}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        for entry, seeds in figures.comparison.unfinished
        if entry.name in names
    ]
    return [f"Not finished, and not counted: {'; '.join(missing)}."] if missing else []
