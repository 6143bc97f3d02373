"""What a step was trained on, as a hash: a step is known by its content, so that none can be trained a second time.

    content(group) = SHA-256(group id, then for each response its token ids and its behaviour log-probabilities)
    content(step)  = SHA-256(content of the step before, step number, contents of its groups in the order of their ids)

Each step names the one before it, as commits do: two runs whose newest steps are equal were trained on the same
responses from the start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

GENESIS = bytes(32)
"""What the first step names as the one before it."""


def group_content(
    group_id: str, responses: Sequence[tuple[NDArray[np.integer[Any]], NDArray[np.float32] | None]]
) -> bytes:
    """Hash of a group's responses, 32 bytes.

    Args:
        group_id: names step, item and modality.
        responses: of each, its token ids, shape [tokens], and log π_b of them, shape [tokens], or None where the
            policy did not sample it.
    """
    digest = hashlib.sha256(_sized(group_id.encode()))
    for token_ids, behaviour in responses:
        digest.update(_sized(token_ids.astype("<i8").tobytes()))
        digest.update(_sized(b"" if behaviour is None else behaviour.astype("<f4").tobytes()))
    return digest.digest()


def step_content(parent: bytes, step: int, groups: Mapping[str, bytes]) -> bytes:
    """Hash of step `step`, 32 bytes: of its parent's hash and its groups' (by id)."""
    digest = hashlib.sha256(parent + step.to_bytes(8, "big"))
    for group_id in sorted(groups):
        digest.update(groups[group_id])
    return digest.digest()


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data
