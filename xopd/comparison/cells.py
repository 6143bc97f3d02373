"""The folder of a comparison and the state of its runs: what is finished, what goes on, what begins."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from xopd.comparison.matrix import Cell, Matrix
from xopd.config import dump_config
from xopd.config.checkpoints import checkpoint_name
from xopd.config.objective import options_of_method
from xopd.config.secrets import FILES
from xopd.config.yaml12 import read_yaml, read_yaml_file
from xopd.data import Item
from xopd.errors import UserError
from xopd.files import write_whole
from xopd.ledger.begun import refuse_changes
from xopd.local.rundir import RunFolder
from xopd.report.comparison import read as records

State = Literal["waiting", "running", "finished", "failed"]
MANIFEST = "comparison.json"
ANEW = "give --overwrite to run the whole comparison anew"
PLACES = ("host", "port", "http_port", "pod_id", "url", "prefix", "endpoints", "insecure", "mutual_tls")
IGNORED = frozenset(PLACES) | {name for _, name in FILES}
"""Settings of where services are and of their security, which may change between two lives of a comparison."""


@dataclass
class Progress:
    """One run of the comparison, and how far it is."""

    cell: Cell
    state: State = "waiting"
    step: int = 0
    phase: str = ""
    seconds: float | None = None
    """What it took, once finished by this process."""
    problem: str = ""

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.cell.folder)


def open_folder(matrix: Matrix, overwrite: bool) -> list[Progress]:
    """Make or reopen the comparison's folder; runs that are finished stay finished.

    Raises:
        UserError: if a run in the folder has other settings than the comparison now asks for.
    """
    if overwrite and matrix.folder.exists():
        _remove(matrix.folder)
    cells = [Progress(cell) for cell in matrix.cells]
    for progress in cells:
        difference = _difference(progress)
        if difference is not None:
            raise UserError(
                f"{progress.cell.folder}: was run with other settings ({difference}); give --overwrite to run the whole"
                " comparison anew, remove that folder, or choose another name."
            )
        if progress.folder.summary.exists():
            progress.state, progress.step = "finished", progress.cell.config.run.steps
    for path in (matrix.folder / "logs", matrix.folder / "processes"):
        path.mkdir(parents=True, exist_ok=True)
    (matrix.folder / "config.yaml").write_text(dump_config(matrix.shared), encoding="utf-8")
    return cells


def refuse_other_items(cells: Sequence[Progress], items: Sequence[Item]) -> None:
    """Hold the runs that are begun or finished against the manifest's items: a table must not mix two datasets.

    Raises:
        UserError: naming a run's first changed items.
    """
    for progress in cells:
        refuse_changes(progress.cell.folder, progress.cell.config, items, ANEW)


def begin(progress: Progress, others: list[Progress]) -> bool:
    """Make a run's folder ready for its trainer; True where it goes on from a checkpoint.

    The base student and the teacher are the same in all runs: their graded answers are taken over where another run
    has them already.
    """
    folder = progress.folder
    for path in (folder.logs, folder.processes):
        path.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(dump_config(progress.cell.config), encoding="utf-8")
    evals = folder.path / "evals"
    evals.mkdir(exist_ok=True)
    for label, source in (("base", None), ("teacher", progress.cell.config.teacher.path)):
        target = evals / f"{label}.json"
        if target.exists():
            continue
        for other in others:
            known = other.folder.path / "evals" / target.name
            if known.exists() and source in (None, other.cell.config.teacher.path):
                shutil.copyfile(known, target)
                break
    return any(folder.checkpoints.glob("*"))


def tidy(progress: Progress) -> None:
    """Remove what a finished run needs no more: the checkpoints to resume from."""
    shutil.rmtree(progress.folder.checkpoints, ignore_errors=True)


def write_manifest(matrix: Matrix, **about: Any) -> Path:
    """Write comparison.json, which the report is built from; `about` goes in beside what the matrix says."""
    first = {cell.entry.name: cell for cell in reversed(matrix.cells)}
    entries = [
        records.Entry(
            **entry.model_dump(include={"name", "label", "group", "kind", "note"}),
            method=first[entry.name].config.objective.method,
            settings=_settings(first[entry.name]),
        )
        for entry in matrix.entries
    ]
    manifest = records.Manifest(
        name=matrix.folder.name,
        quick=matrix.quick,
        steps=matrix.shared.run.steps,
        batch_prompts=matrix.shared.trainer.batch_prompts,
        seeds=matrix.seeds,
        reference=matrix.file.reference,
        about=matrix.file.about,
        limits=matrix.file.limits,
        entries=entries,
        **about,
    )
    path = matrix.folder / MANIFEST
    write_whole(path, manifest.model_dump_json(indent=1) + "\n")
    return path


def _settings(cell: Cell) -> dict[str, Any]:
    own = cell.config.objective.model_dump(by_alias=True, mode="json", exclude_defaults=True)
    named = {f"objective.{name}": value for name, value in own.items()}
    return {
        "objective.method": cell.config.objective.method,
        "objective.lambda": cell.config.objective.lambda_,
        **named,
        "optimiser.learning_rate": cell.config.optimiser.learning_rate,
        "teacher": checkpoint_name(cell.config.teacher.path, 12),
    }


def _difference(progress: Progress) -> str | None:
    """The first setting in which an earlier life of the run differs, as `name: was a, is b`."""
    if not progress.folder.config.exists():
        return None
    earlier = read_yaml_file(progress.folder.config, "configuration of the run").value
    if isinstance(earlier, dict) and isinstance(earlier.get("objective"), dict):
        with contextlib.suppress(ValidationError):  # such as a method of another version: the difference names it
            earlier["objective"] = options_of_method(earlier["objective"])
    before = dict(_flat(earlier if isinstance(earlier, dict) else {}))
    now = dict(_flat(read_yaml(dump_config(progress.cell.config)).value))
    for name in sorted(before.keys() | now.keys()):
        if name.rpartition(".")[2] not in IGNORED and before.get(name) != now.get(name):
            return f"{name} was {before.get(name)}, is {now.get(name)}"
    return None


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _remove(folder: Path) -> None:
    # The folder itself stays: it holds the lock.
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()
