"""Find the family of a checkpoint by the `model_type` that its config.json names."""

from __future__ import annotations

import importlib
from pathlib import Path

from xopd.errors import UserError, first_line
from xopd.families.base import ModelFamily
from xopd.families.checkpoint_files import read_checkpoint_config

FAMILIES = {"qwen2_audio": "xopd.families.qwen2_audio"}
"""By `model_type`: the package whose `open_checkpoint` opens such a checkpoint. Imported when one is opened."""


def find_family(path: str, family: str = "auto") -> str:
    """The family of the student checkpoint at `path`; needs no model library.

    Raises:
        UserError: if there is no checkpoint, or its family is not supported.
    """
    model_type = str(read_checkpoint_config("student.path", Path(path))["model_type"])
    config, known = Path(path) / "config.json", ", ".join(sorted(FAMILIES))
    if family not in ("auto", *FAMILIES):
        raise UserError(f"student.family {family!r} is not supported; supported: {known}, or `auto`.")
    wanted = model_type if family == "auto" else family
    if wanted not in FAMILIES:
        raise UserError(f"student.path {path}: family {wanted!r} is not supported; supported: {known}.")
    if wanted != model_type:
        raise UserError(f"student.family is {wanted!r}, but {config} says {model_type!r}; correct one of them.")
    return wanted


def open_family(path: str, family: str = "auto") -> ModelFamily:
    """Open the student checkpoint at `path`, without its weights.

    Raises:
        UserError: if there is no checkpoint, its family is not supported, or its files cannot be read.
    """
    package = importlib.import_module(FAMILIES[find_family(path, family)])
    try:
        opened: ModelFamily = package.open_checkpoint(path)
    except UserError:
        raise
    except Exception as error:  # each file of a checkpoint fails in its own library's way
        raise UserError(
            f"student.path {path}: its processor, tokenizer or configuration cannot be read ({first_line(error)}); copy"
            " the checkpoint again."
        ) from None
    return opened
