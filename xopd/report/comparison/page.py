"""What the page of a comparison shows beside its tables: curves, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from xopd.report.comparison.charts import head_picture, key_svg, looks_of, sections_of
from xopd.report.comparison.read import Comparison, Entry, Search, Trial
from xopd.report.comparison.statistics import Figures
from xopd.report.comparison.verdict import headline, proves_something
from xopd.report.page import machine_line, render
from xopd.report.style import count, duration
from xopd.report.tables import Column, Row, Table

ENTRIES = (
    Column("entry", "entry", "text"),
    Column("method", "method", "text"),
    Column("about", "what is particular", "prose"),
    Column("seeds", "finished seeds", "text"),
)


def page(figures: Figures, tables: Sequence[Table], paragraphs: Sequence[str]) -> str:
    """The whole page: one HTML file that opens without a network."""
    comparison = figures.comparison
    manifest, looks = comparison.manifest, looks_of(figures)
    differing, shared = _settings(manifest.entries)
    return render(
        "comparison.html",
        name=manifest.name or comparison.folder.resolve().name,
        manifest=manifest,
        headline=headline(figures),
        paragraphs=paragraphs,
        warning=not proves_something(figures) and len(paragraphs) > 1,
        tables=tables,
        methods={found.entry.method for found in figures.entries},
        picture=head_picture(figures, looks),
        reference=comparison.reference,
        sections=sections_of(figures, looks),
        facts=_facts(comparison),
        trials=None if manifest.search is None else _trials(manifest.search, manifest.entries),
        entries=_entries(comparison),
        differing=differing,
        shared=shared,
        keys={name: key_svg(look) for name, look in looks.items()},
    )


def _facts(comparison: Comparison) -> dict[str, str]:
    manifest = comparison.manifest
    done = sum(cell.finished for cell in comparison.cells)
    facts = {
        "budget of each": f"{count(manifest.steps)} optimiser steps of {count(manifest.batch_prompts)} items",
        "seeds": ", ".join(map(str, manifest.seeds)) or "–",
        "trainings": f"{done} of {len(manifest.entries) * len(manifest.seeds)} finished",
        "trained": manifest.about,
        "time": "" if manifest.wall_s is None else f"{duration(manifest.wall_s)} in all",
        "command": manifest.command,
        "machine": machine_line(manifest.machine),
    }
    return {name: value for name, value in facts.items() if value}


def _trials(search: Search, entries: Sequence[Entry]) -> Table:
    """A row an entry, a column a learning rate."""
    rates = sorted({trial.learning_rate for trial in search.trials})
    titles = {entry.name: entry.title for entry in entries}
    tried = {(trial.entry, trial.learning_rate): trial for trial in search.trials}
    # In the order of the entries; one that is no longer among them comes last.
    names = [name for name in {**titles, **{name: name for name, _ in tried}} if any(name == t for t, _ in tried)]
    columns = (Column("entry", "learning rate", "text"), *(Column(_rate(rate), _rate(rate), "text") for rate in rates))
    rows = [Row(name, (titles.get(name, name), *(_trial(tried.get((name, rate))) for rate in rates))) for name in names]
    return Table(columns, tuple(rows))


def _trial(trial: Trial | None) -> str | None:
    if trial is None:
        return None
    scores = (trial.dev.speech, trial.dev.text, trial.dev.retention)
    text = " / ".join("–" if score is None else f"{100 * score:.1f}" for score in scores)
    return f"{text} ✓" if trial.chosen else text


def _entries(comparison: Comparison) -> Table:
    rows = []
    for entry in comparison.manifest.entries:
        seeds = ", ".join(str(cell.seed) for cell in comparison.of(entry.name)) or None
        about = "; ".join(part for part in (entry.kind, entry.note) if part)
        rows.append(Row(entry.name, (entry.title, entry.method, about, seeds)))
    return Table(ENTRIES, tuple(rows))


def _settings(entries: Sequence[Entry]) -> tuple[Table | None, dict[str, str]]:
    """A table of the settings in which entries differ, None where they do not; and those that all share."""
    names = sorted({name for entry in entries for name in entry.settings})
    shown = {name: [_setting(name, entry.settings.get(name)) for entry in entries] for name in names}
    shared = {name: values[0] or "–" for name, values in shown.items() if len(set(values)) == 1}
    differing = [name for name in names if name not in shared]
    if not differing:
        return None, shared
    headings = [(name, name.rpartition(".")[2].replace("_", " ")) for name in differing]
    columns = (Column("entry", "", "text"), *(Column(name, heading, "text") for name, heading in headings))
    rows = [
        Row(f"settings of {entry.name}", (entry.title, *(shown[name][i] for name in differing)))
        for i, entry in enumerate(entries)
    ]
    return Table(columns, tuple(rows)), shared


def _setting(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        return _rate(value) if name.endswith("learning_rate") else f"{value:g}"
    return json.dumps(value)


def _rate(value: float) -> str:
    """A learning rate as `5e-5`, so that rates of one row can be compared by eye."""
    digits, exponent = f"{value:.3e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"
