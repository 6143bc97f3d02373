"""Checkpoints: written whole or not at all, checked by hash when read.

A checkpoint is a folder `step-00000050` of three files; it is written under another name, flushed to disk, and
renamed. `state.json` names the hashes of the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from safetensors.torch import load_file, save_file
from torch import Tensor

log = structlog.get_logger(__name__)
MODEL, OPTIMISER, STATE = "model.safetensors", "optimiser.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a resumed run goes on from."""

    step: int
    model: dict[str, Tensor]
    """Trained tensors under hub names."""
    optimiser: dict[str, Tensor]
    state: dict[str, Any]
    """Counters, as JSON."""


def save_checkpoint(
    folder: Path,
    step: int,
    model: Mapping[str, Tensor],
    optimiser: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint atomically, then remove all but the newest `keep`."""
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}.part"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(dict(model), partial / MODEL)
    save_file(dict(optimiser), partial / OPTIMISER)
    hashes = {name: _sha256(partial / name) for name in (MODEL, OPTIMISER)}
    text = json.dumps({"step": step, "sha256": hashes, "state": dict(state)}, indent=1)
    (partial / STATE).write_text(text, encoding="utf-8")
    for path in (*partial.iterdir(), partial):
        _flush(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _flush(folder)
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old)
    return final


def load_newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None; damaged ones are skipped with a warning."""
    for path in _newest_first(folder):
        try:
            about = json.loads((path / STATE).read_text(encoding="utf-8"))
            for name, expected in about["sha256"].items():
                if _sha256(path / name) != expected:
                    raise ValueError(f"{name} is not what was written")
            return Checkpoint(about["step"], load_file(path / MODEL), load_file(path / OPTIMISER), about["state"])
        except (OSError, ValueError, KeyError) as error:
            log.warning("checkpoint skipped", path=str(path), reason=str(error))
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
