"""The end of the page of a comparison: budget, search for learning rates, settings of each entry, command, machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from xopd.report.comparison.looks import Look, key_svg
from xopd.report.comparison.read import Comparison, Entry, Search, Trial
from xopd.report.units import count, duration


def how_it_was_made(comparison: Comparison, looks: dict[str, Look]) -> str:
    """The last sections of the page."""
    manifest = comparison.manifest
    done = sum(cell.finished for cell in comparison.cells)
    planned = len(manifest.entries) * len(manifest.seeds)
    facts = {
        "budget of each": f"{count(manifest.steps)} optimiser steps of {count(manifest.batch_prompts)} items",
        "seeds": ", ".join(map(str, manifest.seeds)) or "–",
        "trainings": f"{done} of {planned} finished",
        "trained": manifest.about,
    }
    if manifest.wall_s is not None:
        facts["time"] = f"{duration(manifest.wall_s)} in all"
    if manifest.command:
        facts["command"] = manifest.command
    if manifest.machine:
        facts["machine"] = _machine(manifest.machine)
    definitions = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return (
        f"<h2>How it was made</h2><dl>{definitions}</dl>{_search(comparison, looks)}"
        f'<h3 class="part">What each entry is</h3>{_entries(comparison, looks)}{_settings(comparison)}'
    )


def _machine(machine: Mapping[str, Any]) -> str:
    known = [
        f"{machine['cpus']} CPUs" if "cpus" in machine else "",
        f"{machine['memory_gb']} GB" if "memory_gb" in machine else "",
        str(machine.get("platform", "")),
    ]
    others = [f"{name}: {value}" for name, value in machine.items() if name not in ("cpus", "memory_gb", "platform")]
    return ", ".join(part for part in [*known, *others] if part)


def _search(comparison: Comparison, looks: dict[str, Look]) -> str:
    search = comparison.manifest.search
    if search is None:
        note = "No search was made for this comparison: the learning rates are those of the settings below."
        return f'<h3 class="part">Learning rates</h3><p class="note">{note}</p>'
    note = f"{escape(search.about)} A field holds the dev scores of speech / text / retention (%); the chosen is bold."
    return f'<h3 class="part">Learning rates</h3><p class="note">{note}</p>{_trials(comparison, search, looks)}'


def _trials(comparison: Comparison, search: Search, looks: dict[str, Look]) -> str:
    rates = sorted({trial.learning_rate for trial in search.trials})
    entries = {entry.name: entry for entry in comparison.manifest.entries}
    tried: dict[str, dict[float, Trial]] = {}
    for trial in search.trials:
        tried.setdefault(trial.entry, {})[trial.learning_rate] = trial
    head = "".join(f"<th>{_rate(rate)}</th>" for rate in rates)
    rows = []
    for name in sorted(tried, key=lambda name: list(entries).index(name) if name in entries else len(entries)):
        title = entries[name].title if name in entries else name
        key = key_svg(looks[name]) if name in looks else ""
        cells = "".join(f"<td>{_trial(tried[name].get(rate))}</td>" for rate in rates)
        rows.append(f"<tr><td>{key}{escape(title)}</td>{cells}</tr>")
    return f"<table><tr><th>learning rate</th>{head}</tr>{''.join(rows)}</table>" if rows else ""


def _rate(value: float) -> str:
    """A learning rate as `5e-5`, so that rates of one row can be compared by eye."""
    digits, exponent = f"{value:.3e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def _trial(trial: Trial | None) -> str:
    if trial is None:
        return "–"
    scores = (trial.dev.speech, trial.dev.text, trial.dev.retention)
    text = " / ".join("–" if score is None else f"{100 * score:.1f}" for score in scores)
    return f"<b>{text}</b>" if trial.chosen else text


def _entries(comparison: Comparison, looks: dict[str, Look]) -> str:
    rows = []
    for entry in comparison.manifest.entries:
        seeds = ", ".join(str(cell.seed) for cell in comparison.of(entry.name)) or "–"
        about = "; ".join(part for part in (entry.kind, entry.note) if part)
        rows.append(
            f"<tr><td>{key_svg(looks[entry.name])}{escape(entry.title)}</td><td>{escape(entry.method)}</td>"
            f'<td class="wrap" style="text-align:left">{escape(about)}</td><td>{seeds}</td></tr>'
        )
    head = '<th>entry</th><th>method</th><th style="text-align:left">what is particular</th><th>finished seeds</th>'
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _settings(comparison: Comparison) -> str:
    entries = comparison.manifest.entries
    names = sorted({name for entry in entries for name in entry.settings})
    same = [name for name in names if len({_value(entry, name) for entry in entries}) == 1]
    differing = [name for name in names if name not in same]
    parts = []
    if differing:
        head = "".join(f"<th>{escape(name.rpartition('.')[2].replace('_', ' '))}</th>" for name in differing)
        rows = "".join(
            f"<tr><td>{escape(entry.title)}</td>{''.join(f'<td>{_value(entry, name)}</td>' for name in differing)}</tr>"
            for entry in entries
        )
        full = ", ".join(differing)
        note = f"In which settings the entries differ ({full}); a dash is the default."
        parts.append(
            f'<h3 class="part">Settings</h3><p class="note">{escape(note)}</p>'
            f"<table><tr><th></th>{head}</tr>{rows}</table>"
        )
    if same and entries:
        lines = "\n".join(f"{escape(name)}: {_value(entries[0], name)}" for name in same)
        parts.append(f"<details><summary>Settings that all entries share</summary><pre>{lines}</pre></details>")
    return "".join(parts)


def _value(entry: Entry, name: str) -> str:
    if name not in entry.settings:
        return "–"
    value = entry.settings[name]
    if name.endswith("learning_rate") and isinstance(value, float):
        return _rate(value)
    if isinstance(value, float):
        return f"{value:g}"
    return escape(value if isinstance(value, str) else json.dumps(value))
