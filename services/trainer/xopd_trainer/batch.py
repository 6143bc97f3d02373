"""What the learner trains on: groups of scored trajectories, and how they become tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xopd.v1 import trajectory_pb2 as pb


@dataclass(frozen=True)
class ScoredTrajectory:
    """One response y with both log-probabilities of its tokens."""

    token_ids: NDArray[np.int64]
    """Shape [tokens], end-of-turn included when it was sampled."""
    behaviour_logprobs: NDArray[np.float32]
    """log π_b(y_t | x_m, y_<t), shape [tokens]."""
    teacher_logprobs: NDArray[np.float32]
    """log π_T(y_t | x_t, y_<t), shape [tokens]."""
    truncated: bool
    """Whether it ended at the length limit instead of an end of turn."""
    policy_lag: int
    """Versions between the oldest sampled token and the policy that trains on it."""


@dataclass(frozen=True)
class ScoredGroup:
    """The N responses of one item in one modality."""

    group_id: str
    modality: pb.Modality
    prompt_token_ids: tuple[int, ...]
    audio: tuple[str, str] | None
    """(uri, sha256) of the clip, for speech."""
    trajectories: tuple[ScoredTrajectory, ...]


@dataclass(frozen=True)
class ResponseTensors:
    """Responses of several groups, right-padded. Rows run over groups, then over their responses."""

    token_ids: Tensor
    """Shape [responses, tokens], int64; padding is 0."""
    mask: Tensor
    """Shape [responses, tokens], bool."""
    behaviour_logprobs: Tensor
    """Shape [responses, tokens], float32; padding is 0."""
    teacher_logprobs: Tensor
    """Shape [responses, tokens], float32; padding is 0."""
    per_group: tuple[int, ...]
    """Responses of each group."""


def collate_responses(groups: Sequence[ScoredGroup]) -> ResponseTensors:
    """Pad the responses of `groups` to one length."""
    rows = [trajectory for group in groups for trajectory in group.trajectories]
    return ResponseTensors(
        token_ids=_padded([row.token_ids for row in rows], torch.int64),
        mask=_padded([np.ones(len(row.token_ids)) for row in rows], torch.bool),
        behaviour_logprobs=_padded([row.behaviour_logprobs for row in rows], torch.float32),
        teacher_logprobs=_padded([row.teacher_logprobs for row in rows], torch.float32),
        per_group=tuple(len(group.trajectories) for group in groups),
    )


def _padded(rows: Sequence[NDArray[np.generic]], dtype: torch.dtype) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.as_tensor(row).to(dtype) for row in rows], batch_first=True)
