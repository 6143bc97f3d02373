"""Find the family of a checkpoint by the `model_type` that its config.json names."""

from __future__ import annotations

import json
from pathlib import Path

from xopd.errors import UserError
from xopd.families.base import ModelFamily

FAMILIES = ("qwen2_audio",)


def open_family(path: str, family: str = "auto") -> ModelFamily:
    """Open the student checkpoint at `path`, without its weights.

    Raises:
        UserError: if there is no checkpoint, or its family is not supported.
    """
    config = Path(path) / "config.json"
    try:
        model_type = str(json.loads(config.read_text(encoding="utf-8"))["model_type"])
    except FileNotFoundError:
        raise UserError(f"student.path {path}: holds no config.json; give a checkpoint folder.") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise UserError(f"{config}: names no model_type; give a checkpoint folder in the hub's layout.") from None
    wanted = model_type if family == "auto" else family
    if wanted not in FAMILIES:
        raise UserError(f"student.path {path}: family {wanted!r} is not supported; supported: {', '.join(FAMILIES)}.")
    if wanted != model_type:
        raise UserError(f"student.family is {wanted!r}, but {config} says {model_type!r}; correct one of them.")
    from xopd.families.qwen2_audio import Qwen2AudioFamily

    return Qwen2AudioFamily(path)
