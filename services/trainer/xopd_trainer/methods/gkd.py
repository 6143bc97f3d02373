"""GKD (Agarwal et al., arXiv 2306.13649): a divergence to the teacher's distribution at each token of a response.

    L_m = mean over responses, mean over tokens, of JSD_β(π_T(·|x_t, y_<t) ‖ π_θ(·|x_m, y_<t))       y held fixed

β = 0 is the forward KL of the paper's baseline. y is the student's own, or for a share of the items the item's
reference response (the on/off-policy mix). Speech- and text-conditioned responses are treated alike. The settings are
`GkdSettings`.
"""

from __future__ import annotations

import hashlib

import torch

from xopd.config.objective import GkdSettings
from xopd.data import Item
from xopd.objective import Totals, generalised_jsd, mean_over_tokens
from xopd_trainer.batch import ResponseTensors
from xopd_trainer.methods.base import (
    LossTerms,
    PolicyReadout,
    Preparation,
    ReferenceResponses,
    Response,
    RunFacts,
    check_top_k,
)


class Gkd:
    """See `Method`."""

    name = "gkd"
    reads_buckets = True

    def __init__(self, settings: GkdSettings, run: RunFacts) -> None:
        """Train by `settings`; the run's seed decides which items bring their own response."""
        self.settings = settings
        self.seed = run.seed
        self.teacher_top_k: int | None = min(settings.top_k, run.vocabulary_size - 1)
        self._references: ReferenceResponses | None = None

    async def prepare(self, preparation: Preparation) -> None:
        """Tokenise the reference responses where some are used."""
        await check_top_k(preparation.teacher, self.teacher_top_k or 0, "objective.top_k")
        if self.settings.on_policy_share < 1.0:
            self._references = ReferenceResponses(preparation.items, self.settings.target, preparation.conditionings)

    def response(self, step: int, item: Item) -> Response | None:
        """The item's reference where its coin says so; the coin is thrown by seed, step and item."""
        if self._references is None or self._coin(step, item) < self.settings.on_policy_share:
            return None
        return self._references[item.id]

    def loss(self, policy: PolicyReadout, responses: ResponseTensors, totals: Totals) -> LossTerms:
        """The divergence, over the teacher's top-k tokens and one bucket for the rest."""
        assert responses.teacher_top is not None
        assert policy.buckets is not None
        divergence = generalised_jsd(responses.teacher_top.buckets(), policy.buckets, self.settings.beta)
        divergence = torch.where(responses.mask, divergence, torch.zeros_like(divergence))
        return LossTerms(mean_over_tokens(divergence, responses.mask, self.settings.aggregation, totals))

    def _coin(self, step: int, item: Item) -> float:
        digest = hashlib.sha256(f"{self.seed}/on-policy/{step}/{item.id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64
