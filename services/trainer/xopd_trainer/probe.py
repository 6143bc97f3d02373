"""Probes: the signals of on-policy responses to dev items, measured alike whatever the method trains on.

A supervised run samples nothing while it trains; its probes show the same KL, entropy, length and modality gap that an
on-policy run logs at each step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from xopd.data import Item
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import MODALITY_NAMES
from xopd_trainer.dispatcher import Dispatcher, GroupFailedError
from xopd_trainer.groups import GroupWriter
from xopd_trainer.learner import Learner
from xopd_trainer.scored_groups import GroupScorer


class Prober:
    """Samples, has it scored, and measures."""

    def __init__(
        self, writer: GroupWriter, dispatcher: Dispatcher, scorer: GroupScorer, learner: Learner, top_k: int
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
            ScoringError: if the teacher cannot be reached or answers wrongly, after all attempts.
        """
        groups = [(item, self.writer.probe(version, item, modality)) for item in items for modality in MODALITY_NAMES]
        futures = await self.dispatcher.submit([group for _, group in groups])

        async def _scored(item: Item, group: pb.PromptGroup) -> Any:
            try:
                answer = await futures[group.group_id]
            except GroupFailedError:
                return None
            return await self.scorer.sampled(item, group, answer, version, self.top_k)

        scored = await asyncio.gather(*(_scored(item, group) for item, group in groups))
        batch = [group for group in scored if group is not None]
        signals = await asyncio.to_thread(self.learner.measure, batch)
        return {name: collector.summary() for name, collector in signals.items()}
