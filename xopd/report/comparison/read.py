"""The records of a comparison's folder, and reading it: comparison.json and one run folder for each entry and seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from xopd.errors import UserError
from xopd.report.records import Record, RunFiles, read_record, read_run

Part = Literal["speech", "text", "retention"]
PARTS: tuple[Part, ...] = ("speech", "text", "retention")
Verdicts = dict[str, bool]
"""Right or wrong by item id."""


class Entry(Record):
    """One method, or one variant of it, that is compared."""

    name: str
    label: str = ""
    group: Literal["methods", "ablation"] = "methods"
    method: str = "xopd"
    kind: str = ""
    """What tells this entry from another of the same method, such as the style of its targets; free text."""
    note: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        """The label, or the name where there is none."""
        return self.label or self.name


class DevScores(Record):
    """Shares of right answers on the dev split."""

    speech: float | None = None
    text: float | None = None
    retention: float | None = None


class Trial(Record):
    """One run of the search for learning rates."""

    entry: str
    learning_rate: float
    dev: DevScores = Field(default_factory=DevScores)
    chosen: bool = False


class Search(Record):
    """How the learning rates were chosen."""

    about: str = ""
    command: str = ""
    trials: list[Trial] = Field(default_factory=list)


class Manifest(Record):
    """comparison.json."""

    name: str = ""
    quick: bool = False
    steps: int = 0
    batch_prompts: int = 0
    seeds: list[int] = Field(default_factory=list)
    reference: str = "xopd"
    entries: list[Entry] = Field(min_length=1)
    search: Search | None = None
    machine: dict[str, Any] = Field(default_factory=dict)
    wall_s: float | None = None
    command: str = ""
    about: str = "one student on one dataset"
    """What was trained, and on what, as the text calls it."""
    limits: str = ""
    """A sentence on what the figures cannot show."""


@dataclass(frozen=True)
class Cell:
    """One entry trained with one seed; the evaluations are empty where they were not written."""

    entry: str
    seed: int
    run: RunFiles
    teacher: dict[Part, Verdicts]
    base: dict[Part, Verdicts]
    final: dict[Part, Verdicts]

    @property
    def finished(self) -> bool:
        """Whether the trained student was evaluated."""
        return bool(self.final)


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder, read."""

    folder: Path
    manifest: Manifest
    cells: list[Cell]
    """Those that have begun, by entry and seed."""

    def of(self, entry: str) -> list[Cell]:
        """The finished cells of an entry, by seed."""
        return [cell for cell in self.cells if cell.entry == entry and cell.finished]

    @property
    def reference(self) -> Entry:
        """The entry that the text speaks about first."""
        return next(entry for entry in self.manifest.entries if entry.name == self.manifest.reference)

    @property
    def unfinished(self) -> list[tuple[Entry, list[int]]]:
        """Entries with the seeds that are planned and not finished."""
        missing = []
        for entry in self.manifest.entries:
            done = {cell.seed for cell in self.of(entry.name)}
            seeds = [seed for seed in self.manifest.seeds if seed not in done]
            if seeds:
                missing.append((entry, seeds))
        return missing


def read_comparison(folder: str | Path) -> Comparison:
    """Read a comparison; cells that are missing or unfinished are no mistake.

    Raises:
        UserError: if `folder` is no comparison.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the folder of a comparison.")
    path = folder / "comparison.json"
    if not path.exists():
        raise UserError(f"{folder}: holds no comparison.json; give the folder that `xopd compare` wrote.")
    manifest = _manifest(path)
    cells = [
        cell
        for entry in manifest.entries
        for seed in manifest.seeds
        if (cell := _cell(folder / "cells" / entry.name / f"seed-{seed}", entry.name, seed)) is not None
    ]
    return Comparison(folder, manifest, cells)


def _manifest(path: Path) -> Manifest:
    manifest = read_record(Manifest, path, "run the comparison again")
    names = [entry.name for entry in manifest.entries]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: `entries`: two have the same name; names must differ.")
    if manifest.reference not in names:
        listed = ", ".join(f"`{name}`" for name in names)
        raise UserError(f"{path}: `reference`: no entry is named {manifest.reference!r}; give one of {listed}.")
    return manifest


def _cell(folder: Path, entry: str, seed: int) -> Cell | None:
    try:
        run = read_run(folder)
    except UserError:
        # Not begun yet, or its summary is torn: the tables then count a seed less.
        return None
    teacher, base, final = (_verdicts(folder / "evals" / f"{label}.json") for label in ("teacher", "base", "final"))
    return Cell(entry, seed, run, teacher, base, final)


def _verdicts(path: Path) -> dict[Part, Verdicts]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = {part: {str(v["item_id"]): bool(v["correct"]) for v in raw.get(part) or []} for part in PARTS}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}
    return {part: verdicts for part, verdicts in found.items() if verdicts}
