"""The three tables of a comparison: methods, ablation, retention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from xopd.report.comparison import paper
from xopd.report.comparison.read import Comparison, Entry, Part
from xopd.report.comparison.statistics import EntryFigures, Figures, OverSeeds
from xopd.report.comparison.structure import Column, Interval, Number, Row, Table, Value

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
ABOUT_DROP = "Drop = 100 · (teacher's text score − score) / teacher's text score: lower is better."
ABOUT_SPREAD = "Mean ± sample standard deviation over seeds, test split, greedy answers."
ABOUT_PAPER = f"The columns of the paper ({paper.SOURCE}) are its own figures on other models and data."


def tables_of(comparison: Comparison, figures: Figures) -> tuple[Table, Table, Table]:
    """Methods, ablation, and retention."""
    reference = comparison.manifest.reference
    methods = [f for f in figures.entries if f.entry.group == "methods"]
    ablation = [f for f in figures.entries if f.entry.name == reference or f.entry.group == "ablation"]
    ablation.sort(key=lambda f: f.entry.name != reference)
    return (
        _scores("table1", "Methods", comparison, figures, methods),
        _scores("table2", "Ablation", comparison, figures, ablation),
        _retention(comparison, figures),
    )


def _scores(name: str, title: str, comparison: Comparison, figures: Figures, shown: Sequence[EntryFigures]) -> Table:
    rows = []
    if figures.teacher is not None:
        teacher = Number(100 * figures.teacher.accuracy)
        rows.append(Row("teacher", ("Teacher, text only", "", None, teacher, None, None, None, None), "teacher"))
    if figures.base:
        drops = tuple(_number(figures.base_drops.get(part)) for part in ("speech", "text"))
        base = ("Base student", "", *_accuracies(figures), *drops, *_paper_drops("base"))
        rows.append(Row("base", base, "base"))
    for found in shown:
        values = (
            found.entry.title,
            _seeds(comparison, found),
            *(_spread(found.scores.get(part), 100) for part in SPOKEN),
            *(_spread(found.drops.get(part)) for part in SPOKEN),
            *_paper_drops(paper.row_of(found.entry)),
        )
        rows.append(Row(found.entry.name, values, _role(comparison, found.entry)))
    notes = [*_other_teachers(comparison, shown), *_unfinished(comparison, shown)]
    if len(shown) < 2:
        notes.append("No others of this table were part of the comparison.")
    caption = f"{_budget(comparison)}. {ABOUT_SPREAD} {ABOUT_DROP} {ABOUT_PAPER}"
    return Table(name, title, caption, SCORES, tuple(rows), tuple(notes))


def _retention(comparison: Comparison, figures: Figures) -> Table:
    rows = []
    if "retention" in figures.base:
        base = 100 * figures.base["retention"].accuracy
        rows.append(Row("base", ("Base student", "", Number(base), None, None, paper.RETENTION["base"]), "base"))
    for found in figures.entries:
        score, difference = found.scores.get("retention"), found.paired.get("retention")
        change: Value = None
        if score is not None and "retention" in figures.base:
            sd = None if score.sd is None else 100 * score.sd
            change = Number(100 * (score.mean - figures.base["retention"].accuracy), sd, signed=True)
        interval = None if difference is None else Interval(*(100 * bound for bound in difference.ci95))
        values: tuple[Value, ...] = (
            found.entry.title,
            _seeds(comparison, found),
            _spread(score, 100),
            change,
            interval,
            paper.RETENTION.get(paper.row_of(found.entry) or ""),
        )
        rows.append(Row(found.entry.name, values, _role(comparison, found.entry)))
    caption = (
        f"What the student keeps of skills that are not trained on. {_budget(comparison)}. {ABOUT_SPREAD}"
        f" The interval is a paired bootstrap over items of final minus base, an item's value being its mean over"
        f" seeds. {ABOUT_PAPER}"
    )
    return Table(
        "table3", "Retention", caption, RETENTION, tuple(rows), tuple(_unfinished(comparison, figures.entries))
    )


def _role(comparison: Comparison, entry: Entry) -> Literal["reference", "entry"]:
    return "reference" if entry.name == comparison.manifest.reference else "entry"


def _seeds(comparison: Comparison, found: EntryFigures) -> str:
    planned = len(comparison.manifest.seeds)
    return str(planned) if len(found.seeds) == planned else f"{len(found.seeds)} of {planned}"


def _budget(comparison: Comparison) -> str:
    manifest = comparison.manifest
    return f"{manifest.steps:,} steps of {manifest.batch_prompts} items for every method, on the same data"


def _accuracies(figures: Figures) -> tuple[Value, ...]:
    return tuple(_number(100 * figures.base[part].accuracy if part in figures.base else None) for part in SPOKEN)


def _number(value: float | None) -> Number | None:
    return None if value is None else Number(value)


def _spread(found: OverSeeds | None, scale: float = 1.0) -> Number | None:
    if found is None:
        return None
    return Number(scale * found.mean, None if found.sd is None else scale * found.sd)


def _paper_drops(row: str | None) -> tuple[Value, Value]:
    if row is None:
        return None, None
    speech, text = paper.DROPS[row]
    return Number(speech, digits=2), Number(text, digits=2)


def _other_teachers(comparison: Comparison, shown: Sequence[EntryFigures]) -> list[str]:
    return [
        f"{found.entry.title}: its own teacher scores {100 * found.teacher.accuracy:.1f} % on text; the drops are"
        f" measured against the teacher of {comparison.reference.title} all the same."
        for found in shown
        if found.teacher is not None
    ]


def _unfinished(comparison: Comparison, shown: Sequence[EntryFigures]) -> list[str]:
    names = {found.entry.name for found in shown}
    missing = [
        f"{entry.title}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        for entry, seeds in comparison.unfinished
        if entry.name in names
    ]
    return [f"Not finished, and not counted: {'; '.join(missing)}."] if missing else []
