"""The page of a comparison: one self-contained HTML file, read from top to bottom like an article."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from xopd.report.comparison.curves import Curves
from xopd.report.comparison.formats import shown
from xopd.report.comparison.looks import Look, key_svg, legend, looks_of
from xopd.report.comparison.method import how_it_was_made
from xopd.report.comparison.picture import head_picture
from xopd.report.comparison.read import Comparison
from xopd.report.comparison.statistics import Figures
from xopd.report.comparison.structure import Column, Row, Table
from xopd.report.comparison.verdict import headline, proves_something
from xopd.report.drawing import own_ids
from xopd.report.palette import PAGE_LINE, PAGE_QUIET
from xopd.report.style import CSS
from xopd.report.units import count

OWN_CSS = f"""
.verdict p {{ font-size: 16.5px; max-width: 860px; margin: 0 0 12px; color: #2c2c2c; }}
.verdict p.warning {{ border-left: 3px solid #b5175e; padding-left: 14px; font-weight: 600; }}
.wide svg {{ width: 100%; height: auto; display: block; }}
svg.key {{ width: 26px; height: 12px; margin-right: 8px; vertical-align: -1px; }}
.keys {{ position: sticky; top: 0; background: #fcfcfa; padding: 8px 0; margin: 8px 0 0; z-index: 1;
  border-bottom: 1px solid {PAGE_LINE}; }}
h3.part {{ margin: 30px 0 0; font-size: 17px; }}
th {{ white-space: normal; vertical-align: bottom; }} td.wrap {{ white-space: normal; }}
td.paper, th.paper {{ color: {PAGE_QUIET}; background: #f6f6f2; }}
tr.quiet td {{ color: #5a5a5a; }} tr.reference td {{ font-weight: 650; }} tr.reference td.paper {{ font-weight: 400; }}
"""
ABOUT_METHODS = {
    "sft": ("SFT", "supervised fine-tuning: the student imitates given answers"),
    "offline_kd": ("Offline KD", "distillation: it imitates answers that the teacher wrote"),
    "gkd": ("GKD", "it answers itself, and takes over the teacher’s probabilities at every token of its answers"),
    "xopd": (
        "X-OPD",
        "it answers itself, and the teacher, who reads the question, scores every token that was sampled; λ is the"
        " weight of spoken questions, 1 − λ that of written ones",
    ),
}
"""Name and one sentence of each method."""
Drawing = tuple[str, str | None]
"""Title and SVG; None where nothing of it was measured."""


def page(comparison: Comparison, figures: Figures, tables: Sequence[Table], paragraphs: Sequence[str]) -> str:
    """The whole page."""
    manifest, looks = comparison.manifest, looks_of(comparison.manifest)
    name = manifest.name or comparison.folder.resolve().name
    parts = [
        _head(name, comparison, figures, paragraphs),
        _picture(figures, looks),
        *(_table(table, looks) for table in tables),
        _curves(comparison, figures, looks),
        how_it_was_made(comparison, looks),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}: X-OPD comparison</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}{OWN_CSS}</style></head>\n<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(name: str, comparison: Comparison, figures: Figures, paragraphs: Sequence[str]) -> str:
    manifest = comparison.manifest
    line = (
        f"X-OPD comparison <b>{escape(name)}</b> · {len(manifest.entries)} entries, {len(manifest.seeds)}"
        f" seed{'' if len(manifest.seeds) == 1 else 's'} · {count(manifest.steps)} steps each"
    )
    first = "" if proves_something(comparison, figures) or len(paragraphs) < 2 else ' class="warning"'
    told = "".join(f"<p{first if i == 0 else ''}>{escape(text)}</p>" for i, text in enumerate(paragraphs))
    return (
        f'<header><p class="name">{line}</p><h1>{escape(headline(comparison, figures))}</h1>'
        f'<div class="verdict">{told}</div></header>'
    )


def _picture(figures: Figures, looks: dict[str, Look]) -> str:
    methods = {found.entry.method for found in figures.entries}
    drawn = head_picture(figures, looks)
    if drawn is None:
        return ""
    note = (
        "Right answers on the test split. <i>Speech</i>: the question is heard; <i>text</i>: the same question is read;"
        " <i>retention</i>: tasks by speech that are not trained on. The mark is the mean over seeds, the upright"
        " strokes are single seeds, and the light bar is the 95 % interval over items. Dashed: the text-only teacher;"
        " dotted: the base student. Each panel has its own scale."
    )
    told = "".join(f"<b>{name}</b>: {what}. " for method, (name, what) in ABOUT_METHODS.items() if method in methods)
    return (
        f'<h2>All at a glance</h2><p class="note">{note}</p><p class="note">{told}</p>'
        f'<div class="wide">{own_ids(drawn, "head")}</div>'
    )


def _table(table: Table, looks: dict[str, Look]) -> str:
    head = "".join(f"<th{_class(column)}>{escape(column.heading)}</th>" for column in table.columns)
    body = "".join(_row(table, row, looks) for row in table.rows)
    notes = "".join(f'<p class="note" style="margin-top:12px">{escape(note)}</p>' for note in table.notes)
    number = table.name.replace("table", "Table ")
    return (
        f'<h2>{number}: {escape(table.title)}</h2><p class="note">{escape(table.caption)}</p>'
        f"<table><tr>{head}</tr>{body}</table>{notes}"
    )


def _row(table: Table, row: Row, looks: dict[str, Look]) -> str:
    kind = {"reference": ' class="reference"', "entry": ""}.get(row.role, ' class="quiet"')
    key = key_svg(looks[row.name]) if row.name in looks else ""
    cells = "".join(
        f"<td{_class(column)}>{key if i == 0 else ''}{escape(shown(value))}</td>"
        for i, (column, value) in enumerate(zip(table.columns, row.values, strict=True))
    )
    return f"<tr{kind}>{cells}</tr>"


def _class(column: Column) -> str:
    if column.paper:
        return ' class="paper"'
    return f' class="{column.key}"' if column.key in ("speech", "text", "retention") else ""


def _curves(comparison: Comparison, figures: Figures, looks: dict[str, Look]) -> str:
    manifest = comparison.manifest
    methods = [e for e in manifest.entries if e.group == "methods" and comparison.of(e.name)]
    ablation = [e for e in manifest.entries if e.group == "ablation" and comparison.of(e.name)]
    sections = []
    if methods:
        curves = Curves(comparison, figures, looks, methods)
        sections.append(
            f'<section><h3 class="part">The methods</h3>{legend(methods, looks)}{_grid("m", _all(curves))}'
            f"{_advantages('m', curves)}</section>"
        )
    if ablation:
        entries = [comparison.reference, *ablation] if comparison.of(manifest.reference) else ablation
        curves = Curves(comparison, figures, looks, entries)
        sections.append(
            f'<section><h3 class="part">The ablation</h3>{legend(entries, looks)}{_grid("a", _few(curves))}'
            f"{_advantages('a', curves)}</section>"
        )
    if not sections:
        return ""
    note = (
        "A line is the mean over finished seeds, its band goes from the lowest seed to the highest. The broad line is"
        f" {escape(comparison.reference.title)}. Accuracies are"
        " of the dev split, those of the tables of the test split. All other curves are <i>probes</i>: at each"
        " evaluation the student answers the same few dev items at temperature 1 and the teacher scores its tokens, in"
        " the same way for every method, also for those that sample nothing while they train."
        " KL, in nats a token, is how far two distributions over the next token are apart: 0 means the same."
    )
    return f'<h2>How it went</h2><p class="note">{note}</p>{"".join(sections)}'


def _all(curves: Curves) -> list[Drawing]:
    return [
        *_few(curves)[:4],
        ("Gap between teacher and speech", curves.gap()),
        *_few(curves)[4:],
        (
            "Entropy of the policy, given speech",
            curves.signal("speech", lambda s: s.entropy, "nats a token", zero=True),
        ),
        ("Response length, given speech", curves.signal("speech", lambda s: s.length, "tokens", zero=True)),
        (
            "Top tokens shared with the teacher, given speech",
            curves.signal("speech", lambda s: s.top_k_overlap, "% of the policy’s top k", 100),
        ),
        (
            "Teacher’s probability of sampled tokens, given speech",
            curves.signal("speech", lambda s: s.teacher_mass, "mean over tokens"),
        ),
        (
            "Repetition, given speech",
            curves.signal("speech", lambda s: s.repetition, "repeated 4-grams (%)", 100, zero=True),
        ),
    ]


def _few(curves: Curves) -> list[Drawing]:
    return [
        ("Accuracy by speech", curves.accuracy("speech")),
        ("Accuracy by text", curves.accuracy("text")),
        ("Retention", curves.accuracy("retention")),
        (
            "Modality gap: KL(policy given speech ‖ policy given text)",
            curves.signal("speech", lambda s: s.modality_gap, "nats a token", zero=True),
        ),
        ("KL to the teacher, given speech", curves.signal("speech", lambda s: s.kl, "nats a token", zero=True)),
        ("KL to the teacher, given text", curves.signal("text", lambda s: s.kl, "nats a token", zero=True)),
    ]


def _grid(prefix: str, drawings: Sequence[Drawing]) -> str:
    cells = [
        f"<figure><h3>{escape(title)}</h3>{own_ids(svg, f'{prefix}{i}')}</figure>"
        for i, (title, svg) in enumerate(drawings)
        if svg is not None
    ]
    return f'<div class="figures">{"".join(cells)}</div>'


def _advantages(prefix: str, curves: Curves) -> str:
    drawn = curves.advantages()
    if drawn is None:
        return ""
    note = (
        "Advantage of a token = log π of the teacher − log π of the student, given speech. The line is the median over"
        " the probes’ tokens, the band goes from the 5th to the 95th percentile: tokens far below zero are those that"
        " the teacher finds much less likely."
    )
    return (
        f'<h3 class="part">Advantages</h3><p class="note">{note}</p>'
        f'<div class="wide">{own_ids(drawn, f"{prefix}adv")}</div>'
    )
