"""What a training method is: three questions that the step and the learner ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xopd.data import Item
from xopd.objective import Totals
from xopd.prompts.conditionings import Conditionings
from xopd.scoring import TeacherClient
from xopd_trainer.batch import ResponseTensors

Response = NDArray[np.int64]
"""Token ids of a response, shape [tokens], end-of-turn included."""


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
