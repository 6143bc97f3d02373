"""X-OPD (arXiv 2603.24596): the policy answers, the teacher scores the sampled tokens given the TEXT, policy gradient.

    A_t = log π_T(y_t | x_t, y_<t) - log π_θ(y_t | x_m, y_<t)            y ~ π_b(·|x_m), m text or speech       (1, 2)
    L_m = - mean over responses, mean over tokens, of ρ_t · stopgrad(A_t)                                       (3, 4)

With `objective.kl_estimator` top_k or full, the expectation over the next token stands in the sampled token's place.
The settings are `XopdSettings`.
"""

from __future__ import annotations

from xopd.config.objective import XopdSettings
from xopd.data import Item
from xopd.objective import Totals, expected_modality_loss, modality_loss
from xopd_trainer.batch import ResponseTensors
from xopd_trainer.methods.base import LossTerms, PolicyReadout, Preparation, Response, RunFacts, check_top_k


class Xopd:
    """See `Method`."""

    name = "xopd"

    def __init__(self, settings: XopdSettings, run: RunFacts) -> None:
        """Train by `settings`; `full` asks the teacher for all tokens of the vocabulary but one."""
        self.settings = settings
        self.reads_buckets = settings.kl_estimator != "sampled"
        self.teacher_top_k: int | None = {"sampled": 0, "top_k": settings.top_k, "full": run.vocabulary_size - 1}[
            settings.kl_estimator
        ]

    async def prepare(self, preparation: Preparation) -> None:
        """The teacher must give as many tokens as the estimator wants."""
        await check_top_k(preparation.teacher, self.teacher_top_k or 0, f"kl_estimator {self.settings.kl_estimator}")

    def response(self, step: int, item: Item) -> Response | None:
        """On-policy: the policy answers everything."""
        return None

    def loss(self, policy: PolicyReadout, responses: ResponseTensors, totals: Totals) -> LossTerms:
        """Equations 3 and 4, with the sampled tokens or with the expectation over the next one."""
        settings = self.settings
        if settings.kl_estimator != "sampled":
            assert responses.teacher_top is not None and policy.buckets is not None
            expected = expected_modality_loss(
                policy.buckets,
                responses.teacher_top,
                responses.mask,
                aggregation=settings.aggregation,
                advantage_clamp=settings.advantage_clamp,
                totals=totals,
            )
            return LossTerms(expected.loss, expected.clipped)
        assert responses.behaviour_logprobs is not None and responses.teacher_logprobs is not None
        terms = modality_loss(
            policy.logprobs,
            responses.behaviour_logprobs,
            responses.teacher_logprobs,
            responses.mask,
            aggregation=settings.aggregation,
            advantage_clamp=settings.advantage_clamp,
            ratio_truncation=settings.ratio_truncation,
            ratio_mask=settings.ratio_mask,
            totals=totals,
        )
        return LossTerms(terms.loss, terms.clipped)
