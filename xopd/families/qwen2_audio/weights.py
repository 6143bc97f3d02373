"""Tensors of Qwen2-Audio: transformers' names and the hub's, which of them are frozen, and which must be there.

Their shapes are the same on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from xopd.errors import UserError

FROZEN_PREFIXES = ("audio_tower.", "multi_modal_projector.")
"""Of the hub's names: the tower, then the adapter."""
TO_HUB = (
    ("model.language_model.", "language_model.model."),
    ("model.audio_tower.", "audio_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
"""Prefixes of transformers' module names, and of the hub's names for the same tensors."""
HEAD = "language_model.lm_head.weight"


def hub_name(name: str) -> str:
    """The hub's name of a tensor that transformers calls `name`. Raises KeyError for one that no checkpoint has."""
    for mine, hubs in TO_HUB:
        if name.startswith(mine):
            return hubs + name.removeprefix(mine)
    raise KeyError(f"tensor {name!r} has no place in a Qwen2-Audio checkpoint")


def hub_tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The one tensor of the hub that a tensor of transformers stands for."""
    yield hub_name(name), tensor


def is_frozen(hub_name: str) -> bool:
    """Whether the tensor belongs to the tower or the adapter."""
    return hub_name.startswith(FROZEN_PREFIXES)


def refuse_incomplete(path: str, config: Any, missing: Iterable[str], mismatched: Iterable[str]) -> None:
    """Refuse a checkpoint for the first tensor, by its hub name, that it lacks or has in another shape.

    Raises:
        UserError: naming that tensor.
    """
    lacking = min(missing, default=None)
    if lacking == HEAD and config.get_text_config().tie_word_embeddings:
        raise UserError(
            f"student.path {path}: has no {HEAD}, since its head is tied to its embeddings; that is not supported: save"
            " it with a head of its own and `tie_word_embeddings` false."
        )
    if lacking is not None:
        raise UserError(f"student.path {path}: lacks the tensor {lacking}; copy the checkpoint again.")
    other = min(mismatched, default=None)
    if other is not None:
        raise UserError(
            f"student.path {path}: the tensor {other} has another shape than its config.json tells; copy the checkpoint"
            " again."
        )
