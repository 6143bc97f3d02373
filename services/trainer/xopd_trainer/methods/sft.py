"""SFT: likelihood of the items' own reference responses, given the speech and given the text.

    L_m = - mean over items, mean over tokens, of log π_θ(y*_t | x_m, y*_<t)

`objective.target` names the response y* of an item; whose style it has decides what is learnt. The settings are
`SftSettings`.
"""

from __future__ import annotations

from xopd.config.objective import SftSettings
from xopd.data import Item
from xopd.objective import Totals
from xopd_trainer.batch import ResponseTensors
from xopd_trainer.methods.base import (
    LossTerms,
    PolicyReadout,
    Preparation,
    ReferenceResponses,
    Response,
    RunFacts,
    negative_log_likelihood,
)


class Sft:
    """See `Method`."""

    name = "sft"
    teacher_top_k: int | None = None
    reads_buckets = False

    def __init__(self, settings: SftSettings, run: RunFacts) -> None:
        """Train by `settings`."""
        self.settings = settings
        self._references: ReferenceResponses | None = None

    async def prepare(self, preparation: Preparation) -> None:
        """Tokenise the responses."""
        self._references = ReferenceResponses(preparation.items, self.settings.target, preparation.conditionings)

    def response(self, step: int, item: Item) -> Response | None:
        """The item's reference response."""
        assert self._references is not None
        return self._references[item.id]

    def loss(self, policy: PolicyReadout, responses: ResponseTensors, totals: Totals) -> LossTerms:
        """The negative log-likelihood."""
        return LossTerms(negative_log_likelihood(policy, responses, self.settings.aggregation, totals))
