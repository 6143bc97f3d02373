"""What a training method is: three questions that the step and the learner ask it; and what several methods share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xopd.data import Item
from xopd.errors import UserError
from xopd.objective import Aggregation, Totals, mean_over_tokens
from xopd.prompts.conditionings import Conditionings, target_text
from xopd.scoring import TeacherClient
from xopd_trainer.batch import ResponseTensors

Response = NDArray[np.int32]
"""Token ids of a response, shape [tokens], end-of-turn included."""


@dataclass(frozen=True)
class RunFacts:
    """What a method may want to know of the run beside its own settings."""

    seed: int
    vocabulary_size: int
    """Tokens of the student's and the teacher's distributions."""
    max_new_tokens: int
    """Longest training response (tokens)."""


@dataclass(frozen=True)
class Preparation:
    """What a method may use before the first step."""

    items: Sequence[Item]
    """Items that will be trained on."""
    conditionings: Conditionings
    teacher: TeacherClient
    responses: Path
    """The file in which a method keeps the teacher's responses."""
    progress: Callable[[int, int], None]
    """Called with (done, total)."""


@dataclass(frozen=True)
class PolicyReadout:
    """The policy at the tokens of a micro-batch's responses; 0 on padding. Nothing is as wide as the vocabulary."""

    logprobs: Tensor
    """log π_θ(y_t | x_m, y_<t), shape [responses, tokens], with gradient."""
    buckets: Tensor | None
    """Log-probabilities of the teacher's k named tokens and of all others as one tail, with gradient, shape
    [responses, tokens, k + 1]; None for a method that does not read them."""
    entropy: Tensor
    """Of the next-token distribution (nats), shape [responses, tokens], no gradient."""
    overlap: Tensor | None
    """Share of the policy's most probable tokens that are among as many of the teacher's, shape [responses, tokens], no
    gradient; None where the teacher named too few."""


@dataclass(frozen=True)
class LossTerms:
    """A micro-batch's share of the loss L_m of one modality."""

    loss: Tensor
    """A scalar, differentiable."""
    clipped: Tensor | None = None
    """Shape [responses, tokens], no gradient: 1 where a limit of the loss changed a token's term, or the share of the
    policy's mass that it changed where the term is an expectation. None for a loss without limits."""


class Method(Protocol):
    """One training method."""

    name: str
    teacher_top_k: int | None
    """Most probable tokens that the teacher is asked for beside the response's own; None: it is not asked at all."""
    reads_buckets: bool
    """Whether the loss is over the buckets of the teacher's named tokens."""

    async def prepare(self, preparation: Preparation) -> None:
        """Get ready before the first step. Raises UserError where the items or the teacher do not fit."""
        ...

    def response(self, step: int, item: Item) -> Response | None:
        """The supplied response to `item` in optimiser step `step`; None: the policy samples its own.

        Raises:
            UnusablePromptError: if this item has none that can be used; the others go on.
        """
        ...

    def loss(self, policy: PolicyReadout, responses: ResponseTensors, totals: Totals) -> LossTerms:
        """L_m over one micro-batch; the shares of a batch's micro-batches add up."""
        ...


class ReferenceResponses:
    """The items' own responses as token ids, for the methods that train on them."""

    def __init__(self, items: Sequence[Item], style: str, conditionings: Conditionings) -> None:
        """Take the `style` of each item: `response`, or a name among its `targets`.

        Raises:
            UserError: if an item has no such response.
        """
        for item in items:
            target_text(item, style)
        self._items = {item.id: item for item in items}
        self._style = style
        self._conditionings = conditionings

    def __getitem__(self, item_id: str) -> Response:
        """Token ids of the item's response, end-of-turn included.

        Raises:
            UnusablePromptError: if the tokenizer cannot write it as text.
        """
        return np.asarray(self._conditionings.target(self._items[item_id], self._style), dtype=np.int32)


async def check_top_k(teacher: TeacherClient, top_k: int, wanted_by: str) -> None:
    """Hold `top_k` against the teachers' limit.

    Raises:
        UserError: if a teacher gives fewer tokens.
    """
    limit = await teacher.max_top_k()
    if top_k > limit:
        raise UserError(
            f"{wanted_by} needs the teacher's {top_k} most probable tokens, and it gives {limit} at most:"
            " raise teacher.max_top_k where the teacher runs, or lower objective.top_k."
        )


def negative_log_likelihood(
    policy: PolicyReadout, responses: ResponseTensors, aggregation: Aggregation, totals: Totals
) -> Tensor:
    """Minus log π_θ(y*_t | x_m, y*_<t), averaged; a scalar, differentiable."""
    values = torch.where(responses.mask, -policy.logprobs, torch.zeros_like(policy.logprobs))
    return mean_over_tokens(values, responses.mask, aggregation, totals)
