"""Probes: the signals of on-policy responses to dev items, measured alike whatever the method trains on.

A supervised run samples nothing while it trains; its probes show the same KL, entropy, length and modality gap that an
on-policy run logs at each step.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import structlog

from xopd.data import Item
from xopd.prompts import UnusablePromptError
from xopd.scoring import UnscorableError
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import MODALITY_NAMES
from xopd_trainer.dispatch.dispatcher import Dispatcher, GroupFailedError
from xopd_trainer.dispatch.groups import GroupWriter
from xopd_trainer.dispatch.scored_groups import GroupScorer
from xopd_trainer.learning.handle import LearnerHandle

log = structlog.get_logger(__name__)


class Prober:
    """Samples, has it scored, and measures."""

    def __init__(
        self,
        writer: GroupWriter,
        dispatcher: Dispatcher,
        scorer: GroupScorer,
        learner: LearnerHandle,
        top_k: int,
    ) -> None:
        """Ask the teacher for its `top_k` most probable tokens."""
        self.writer = writer
        self.dispatcher = dispatcher
        self.scorer = scorer
        self.learner = learner
        self.top_k = top_k

    async def measure(self, version: int, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
        """The signals of policy `version` on task items, by modality name.

        Raises:
            ScoringError: if the teacher cannot be reached, after all attempts.
        """
        groups = []
        for item, modality in itertools.product(items, MODALITY_NAMES):
            with contextlib.suppress(UnusablePromptError):  # the evaluation of the same item has told of it
                groups.append((item, self.writer.probe(version, item, modality)))
        futures = await self.dispatcher.submit([group for _, group in groups])

        async def _scored(item: Item, group: pb.PromptGroup) -> Any:
            try:
                answer = await futures[group.group_id]
                return await self.scorer.sampled(item, group, answer, version, self.top_k)
            except (GroupFailedError, UnscorableError, UnusablePromptError) as error:
                log.warning("not probed", group=group.group_id, reason=str(error))
                return None

        scored = await asyncio.gather(*(_scored(item, group) for item, group in groups))
        scored_groups = [group for group in scored if group is not None]
        unusable = await self.learner.unusable_clips(scored_groups)
        batch = [group for group in scored_groups if group.group_id not in unusable]
        signals = await self.learner.measure(batch)
        return {name: collector.summary() for name, collector in signals.items()}
