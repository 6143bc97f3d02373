"""Checkpoints: written whole or not at all, checked by hash when read.

A checkpoint is a folder `step-00000050` of three files: `model.safetensors` holds the weights as pods get them,
`optimiser.safetensors` Adam's state, and the master weights where they are a copy; `state.json` has the hashes of both.
It is written under another name, flushed to disk, and renamed. So a process that is killed, or a disk that fills up, at
any moment leaves the checkpoints before it as they were. Tensors are written, and read, one at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from safetensors import SafetensorError, safe_open
from torch import Tensor

from xopd.errors import UserError
from xopd.weights.base import NamedTensors, TensorSpec
from xopd.weights.safetensors_file import HashedWriter, write_safetensors

log = structlog.get_logger(__name__)
MODEL, OPTIMISER, STATE = "model.safetensors", "optimiser.safetensors", "state.json"
PARTIAL = ".part"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a resumed run goes on from; the tensors stay in their files until they are asked for."""

    path: Path
    step: int
    state: dict[str, Any]
    """Counters, as JSON."""

    def model(self) -> Iterator[tuple[str, Tensor]]:
        """The trained tensors under hub names, one after another."""
        return _read(self.path / MODEL)

    @property
    def dtype(self) -> str:
        """Number format of the trained tensors, as torch names it."""
        return TensorSpec.of(*next(self.model())).dtype

    def optimiser(self) -> Iterator[tuple[str, Tensor]]:
        """The optimiser's tensors, one after another."""
        return _read(self.path / OPTIMISER)


def save_checkpoint(
    folder: Path,
    step: int,
    model: NamedTensors,
    optimiser: NamedTensors,
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint atomically, then remove all but the newest `keep`.

    Raises:
        OSError: if it cannot be written, such as on a full disk; nothing of it is left behind.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}{PARTIAL}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        hashes = {MODEL: _write(model, partial / MODEL), OPTIMISER: _write(optimiser, partial / OPTIMISER)}
        text = json.dumps({"step": step, "sha256": hashes, "state": dict(state)}, indent=1)
        (partial / STATE).write_text(text, encoding="utf-8")
        for path in (*partial.iterdir(), partial):
            _flush(path)
    except BaseException:
        # A full disk must not stay full because of what did not fit.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _flush(folder)
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old)
    return final


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where there is none at all; damaged ones are skipped, and said.

    Raises:
        UserError: if there are checkpoints, and none of them is whole.
    """
    for leftover in folder.glob(f".*{PARTIAL}"):
        log.info("a checkpoint that was being written is removed", path=str(leftover))
        shutil.rmtree(leftover, ignore_errors=True)
    found, problem = _newest_first(folder), ""
    for path in found:
        try:
            about = json.loads((path / STATE).read_text(encoding="utf-8"))
            for name, expected in about["sha256"].items():
                if _sha256(path / name) != expected:
                    raise ValueError(f"{name} is not what was written")
            for name in (MODEL, OPTIMISER):
                with safe_open(path / name, framework="pt"):  # reads the header
                    pass
            return Checkpoint(path, about["step"], about["state"])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            problem = f"{path.name}: {error}"
            log.warning("checkpoint skipped", path=str(path), reason=str(error))
    if found:
        raise UserError(
            f"{folder}: none of its {len(found)} checkpoints is whole ({problem}); bring one back from a copy, or begin"
            " the run anew."
        )
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _write(tensors: NamedTensors, path: Path) -> str:
    """Write a safetensors file; returns its SHA-256."""
    with path.open("wb") as file:
        hashed = HashedWriter(file)
        write_safetensors(hashed, tensors)
    return hashed.sha256


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as reader:
        for name in reader.keys():  # noqa: SIM118 (a reader is no mapping)
            yield name, reader.get_tensor(name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
