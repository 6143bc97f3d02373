"""What a training method is: three questions that the step and the learner ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xopd.data import Item
from xopd.objective import Totals
from xopd.prompts.conditionings import Conditionings
from xopd.scoring import TeacherClient
from xopd_trainer.batch import ResponseTensors
from xopd_trainer.run_files import RunFiles

Response = NDArray[np.int64]
"""Token ids of a response, shape [tokens], end-of-turn included."""


@dataclass(frozen=True)
class Preparation:
    """What a method may use before the first step."""

    items: Sequence[Item]
    """Items that will be trained on."""
    conditionings: Conditionings
    teacher: TeacherClient
    files: RunFiles
    progress: Callable[[int, int], None]
    """Called with (done, total)."""


@dataclass(frozen=True)
class PolicyOutput:
    """The policy at the tokens of a micro-batch's responses."""

    logits: Tensor
    """Shape [responses, tokens, vocabulary], with gradient."""
    logprobs: Tensor
    """log π_θ(y_t | x_m, y_<t), shape [responses, tokens], with gradient."""


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

    async def prepare(self, preparation: Preparation) -> None:
        """Get ready before the first step. Raises UserError where the items or the teacher do not fit."""
        ...

    def response(self, step: int, item: Item) -> Response | None:
        """The supplied response to `item` in optimiser step `step`; None: the policy samples its own.

        Raises:
            UnusablePromptError: if this item has none that can be used; the others go on.
        """
        ...

    def loss(self, policy: PolicyOutput, responses: ResponseTensors, totals: Totals) -> LossTerms:
        """L_m over one micro-batch; the shares of a batch's micro-batches add up."""
        ...
