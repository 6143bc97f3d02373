"""The table of a run: teacher, base and final by speech, text and retention, and the drop against the teacher."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from xopd.report.palette import QUIET, RETENTION, SPEECH, TEXT
from xopd.report.records import ModelScores, Score, Summary

HEADINGS = ("", "speech", "text", "retention", "drop, speech", "drop, text")


@dataclass(frozen=True)
class Row:
    """One model's line."""

    name: str
    scores: ModelScores
    drop_speech: float | None
    """100 · (teacher's text accuracy − this model's speech accuracy) / teacher's text accuracy (%)."""
    drop_text: float | None


def rows(summary: Summary) -> list[Row]:
    """The lines of the table."""
    reference = summary.teacher.text
    table = [Row("teacher, text", summary.teacher, None, None)]
    for name, scores in (("base student", summary.base), ("final student", summary.final)):
        table.append(Row(name, scores, drop(reference, scores.speech), drop(reference, scores.text)))
    return table


def drop(reference: Score | None, score: Score | None) -> float | None:
    """Relative loss against the text-only teacher, in percent; None where one of the two is missing."""
    if reference is None or score is None or reference.accuracy == 0:
        return None
    return 100.0 * (reference.accuracy - score.accuracy) / reference.accuracy


def incomplete(summary: Summary) -> list[str]:
    """Sentences on what among the wrong answers is no answer: cut off at the longest length, or missing."""
    found = []
    for row in rows(summary):
        scores = {"speech": row.scores.speech, "text": row.scores.text, "retention": row.scores.retention}
        for what, count in (("cut off at evals.max_new_tokens", "cut"), ("missing", "unanswered")):
            parts = [
                f"{part} {getattr(score, count):,} of {score.n:,}"
                for part, score in scores.items()
                if score is not None and getattr(score, count)
            ]
            if parts:
                found.append(f"{row.name}: {what}, and so wrong: {', '.join(parts)}.")
    return found


def rich_table(summary: Summary) -> Table:
    """The table for a terminal of 80 columns; after each score its 95 % interval."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    styles = ("", SPEECH, TEXT, RETENTION, "", "")
    for heading, style in zip(HEADINGS, styles, strict=True):
        shown = heading.replace(", ", "\n") if heading.startswith("drop") else f"\n{heading}, %" if heading else ""
        table.add_column(shown, style=style, justify="left" if not heading else "right", no_wrap=True)
    for row in rows(summary):
        bold = "bold" if row.name.startswith("final") else ""
        table.add_row(
            Text(row.name, style=bold),
            *(_rich_score(score, bold) for score in (row.scores.speech, row.scores.text, row.scores.retention)),
            Text(_drop(row.drop_speech), style=bold),
            Text(_drop(row.drop_text), style=bold),
        )
    return table


def markdown_table(summary: Summary) -> str:
    """The table in Markdown, with 95 % intervals."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "| --- " + "| ---: " * 5 + "|"]
    for row in rows(summary):
        cells = [_score(score) for score in (row.scores.speech, row.scores.text, row.scores.retention)]
        cells += [_drop(row.drop_speech), _drop(row.drop_text)]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    lines += [line for sentence in incomplete(summary) for line in ("", sentence)]
    return "\n".join(lines) + "\n"


def _score(score: Score | None) -> str:
    if score is None:
        return "–"
    text = f"{100 * score.accuracy:.1f} %"
    return f"{text} {_interval(score)}" if score.ci95 else text


def _rich_score(score: Score | None, style: str) -> Text:
    if score is None:
        return Text("–", style=QUIET)
    text = Text(f"{100 * score.accuracy:.1f}", style=style)
    if score.ci95:
        low, high = score.ci95
        text.append(f" [{100 * low:.0f}, {100 * high:.0f}]", style=QUIET)
    return text


def _interval(score: Score) -> str:
    low, high = score.ci95 or (score.accuracy, score.accuracy)
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def _drop(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"
