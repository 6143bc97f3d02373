"""Build the tables, the numbers and report.html of a comparison."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xopd.evals.intervals import Accuracy
from xopd.files import write_whole
from xopd.report.comparison.read import read_comparison
from xopd.report.comparison.statistics import EntryFigures, Figures, OverSeeds, figures_of
from xopd.report.comparison.tables import tables_of
from xopd.report.comparison.verdict import headline, proves_something, verdict
from xopd.report.tables import Table, csv_text, latex, markdown


@dataclass(frozen=True)
class ComparisonFiles:
    """What was written into the comparison's folder, and what it holds."""

    report: Path
    markdown: Path
    """All tables in one file, below the verdict."""
    summary: Path
    table_files: tuple[Path, ...]
    """table1.md, .tex, .csv, and so on."""
    tables: tuple[Table, ...]
    figures: Figures
    paragraphs: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The verdict as text of several paragraphs."""
        return "\n\n".join(self.paragraphs)


def build_comparison(folder: str | Path) -> ComparisonFiles:
    """Write the tables, comparison-summary.json and report.html, and return where they lie and what they say.

    Works on a comparison that is still going, too: each row then says how many seeds it holds.

    Raises:
        UserError: if `folder` is no comparison.
    """
    from xopd.report.comparison.page import page

    comparison = read_comparison(folder)
    figures = figures_of(comparison)
    tables = tables_of(figures)
    paragraphs = verdict(figures)
    written = []
    for table in tables:
        for suffix, text in (("md", markdown(table)), ("tex", latex(table)), ("csv", csv_text(table))):
            written.append(_write(comparison.folder / f"{table.name}.{suffix}", text))
    title = f"## {headline(figures)}"
    all_tables = "\n".join([title, "", "\n\n".join(paragraphs), "", *(markdown(table) for table in tables)])
    numbers = json.dumps(summary_of(figures, paragraphs), indent=2, ensure_ascii=False) + "\n"
    return ComparisonFiles(
        report=_write(comparison.folder / "report.html", page(figures, tables, paragraphs)),
        markdown=_write(comparison.folder / "tables.md", all_tables),
        summary=_write(comparison.folder / "comparison-summary.json", numbers),
        table_files=tuple(written),
        tables=tables,
        figures=figures,
        paragraphs=tuple(paragraphs),
    )


def summary_of(figures: Figures, paragraphs: list[str]) -> dict[str, Any]:
    """The numbers, as comparison-summary.json holds them: scores and gap closed as shares, drops in percent."""
    manifest = figures.comparison.manifest
    return {
        "name": manifest.name,
        "quick": manifest.quick,
        "steps": manifest.steps,
        "batch_prompts": manifest.batch_prompts,
        "seeds": manifest.seeds,
        "reference": manifest.reference,
        "headline": headline(figures),
        "verdict": paragraphs,
        "enough_to_speak_about_methods": proves_something(figures),
        "teacher": {"text": _accuracy(figures.teacher)},
        "base": {
            "scores": {part: score.as_json() for part, score in figures.base.items()},
            "drops": dict(figures.base_drops),
        },
        "information_ceiling": figures.ceiling,
        "entries": {found.entry.name: _entry(found) for found in figures.entries},
    }


def _entry(found: EntryFigures) -> dict[str, Any]:
    return {
        "label": found.entry.title,
        "group": found.entry.group,
        "method": found.entry.method,
        "seeds": list(found.seeds),
        "n_seeds": len(found.seeds),
        "scores": {
            part: {**_spread(score), "ci95_items": list(found.items[part]) if part in found.items else None}
            for part, score in found.scores.items()
        },
        "drops": {part: _spread(score) for part, score in found.drops.items()},
        "gap_closed": None if found.gap_closed is None else _spread(found.gap_closed),
        "paired": {part: difference.as_json() for part, difference in found.paired.items()},
        "own_teacher": {"text": _accuracy(found.teacher)} if found.teacher is not None else None,
    }


def _spread(found: OverSeeds) -> dict[str, Any]:
    return {
        "mean": found.mean,
        "sd": found.sd,
        "min": found.low,
        "max": found.high,
        "n_seeds": found.n,
        "values": list(found.values),
    }


def _accuracy(score: Accuracy | None) -> dict[str, object] | None:
    return None if score is None else score.as_json()


def _write(path: Path, text: str) -> Path:
    write_whole(path, text)
    return path
