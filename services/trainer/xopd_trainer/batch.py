"""What the learner trains on: groups of responses, scored or supplied, and how they become tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xopd.objective import TeacherTop
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import TokenScores

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ScoredTrajectory:
    """One response y with the log-probabilities of its tokens that the method asked for."""

    token_ids: NDArray[np.int32]
    """Shape [tokens], end-of-turn included when it was sampled."""
    behaviour_logprobs: Floats | None
    """log π_b(y_t | x_m, y_<t), shape [tokens]; None where the policy did not sample it."""
    teacher: TokenScores | None
    """log π_T(y_t | x_t, y_<t) and the teacher's most probable tokens; None where the teacher was not asked."""
    truncated: bool
    """Whether it ended at the length limit instead of an end of turn."""
    policy_lag: int
    """Versions between the oldest sampled token and the policy that trains on it."""

    @property
    def sampled(self) -> bool:
        """Whether the policy sampled it; else the item, or the teacher, supplied it."""
        return self.behaviour_logprobs is not None


@dataclass(frozen=True)
class ScoredGroup:
    """The responses to one item in one modality: all sampled, or all supplied."""

    group_id: str
    modality: pb.Modality
    prompt_token_ids: tuple[int, ...]
    text_prompt_token_ids: tuple[int, ...]
    """The student's prompt of the same item as text, for the modality gap."""
    audio: tuple[str, str] | None
    """(uri, sha256) of the clip, for speech."""
    trajectories: tuple[ScoredTrajectory, ...]

    @property
    def sampled(self) -> bool:
        """Whether the policy sampled the responses."""
        return self.trajectories[0].sampled


@dataclass(frozen=True)
class ResponseTensors:
    """Responses of several groups, right-padded. Rows run over groups, then over their responses."""

    token_ids: Tensor
    """Shape [responses, tokens], int64; padding is 0."""
    mask: Tensor
    """Shape [responses, tokens], bool."""
    behaviour_logprobs: Tensor | None
    """Shape [responses, tokens], float32; padding is 0. None where the policy did not sample them."""
    teacher_logprobs: Tensor | None
    """Shape [responses, tokens], float32; padding is 0. None where the teacher was not asked."""
    teacher_top: TeacherTop | None
    """The teacher's most probable tokens; None where none were asked for."""
    per_group: tuple[int, ...]
    """Responses of each group."""


def collate_responses(groups: Sequence[ScoredGroup]) -> ResponseTensors:
    """Pad the responses of `groups` to one length; what one of them lacks is None for all."""
    rows = [trajectory for group in groups for trajectory in group.trajectories]
    behaviour = [row.behaviour_logprobs for row in rows if row.behaviour_logprobs is not None]
    scores = [row.teacher for row in rows if row.teacher is not None]
    scored = len(scores) == len(rows)
    lengths = torch.tensor([len(row.token_ids) for row in rows])
    return ResponseTensors(
        token_ids=_padded([row.token_ids for row in rows], np.int64),
        mask=torch.arange(int(lengths.max())) < lengths[:, None],
        behaviour_logprobs=_padded(behaviour, np.float32) if len(behaviour) == len(rows) else None,
        teacher_logprobs=_padded([score.logprobs for score in scores], np.float32) if scored else None,
        teacher_top=_top(scores) if scored and all(score.top_token_ids.size for score in scores) else None,
        per_group=tuple(len(group.trajectories) for group in groups),
    )


def _top(scores: Sequence[TokenScores]) -> TeacherTop:
    return TeacherTop(
        _padded([score.top_token_ids for score in scores], np.int64),
        _padded([score.top_logprobs for score in scores], np.float32),
        _padded([score.tail_logprobs for score in scores], np.float32),
    )


def _padded(rows: Sequence[NDArray[np.generic]], dtype: type[np.generic]) -> Tensor:
    """Rows of shape [tokens, ...] as one tensor [rows, tokens, ...], padded with 0."""
    padded = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), dtype)
    for to, row in zip(padded, rows, strict=True):
        to[: len(row)] = row
    return torch.from_numpy(padded)
