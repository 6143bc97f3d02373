"""The loop between Redis and the engine: claim prompt groups, answer them, keep the claims alive, drain.

Invariants:
- A claim is acknowledged in the same transaction that appends its answer; a pod that dies loses nothing.
- At most `max_in_flight` groups are claimed at a time.
- Losing Redis costs nothing but time: what is sampled is answered when Redis is back.
- A group that ends pods is found out: once a few were lost with it, it is sampled alone, and in the end refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from functools import partial

import redis.asyncio as aioredis
import structlog

from xopd.config.schema import Config
from xopd.service.lifecycle import end_tasks
from xopd.streams import Claim, DeadLetters, Keys, WorkStream
from xopd.streams.keys import ROLLOUT_GROUP
from xopd.streams.retry import OUTAGES, RetryPolicy
from xopd.telemetry import Tracer, child_span, failed
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import UnusableGroupError, WireError, decode_prompt_group
from xopd_rollout.contract import EngineDiedError
from xopd_rollout.groups import GroupSampler
from xopd_rollout.metrics import RolloutMetrics
from xopd_rollout.spans import claim_span, note_answer

log = structlog.get_logger(__name__)
BLOCK_MS = 500
"""Longest wait for work in one read (milliseconds): how soon a stop is noticed."""
ANSWER_RETRY_S = 120.0
"""An answer that cannot be delivered for so long is dropped (seconds): its group is dispatched again anyway."""
SUSPECT_AFTER = 2
"""Pods lost with a group in hand, after which it is sampled alone: what else a pod holds shall not be lost with it."""
REFUSED_AFTER = 4
"""Pods lost with a group in hand, the later ones with nothing else, after which no pod takes the risk any more."""


class Worker:
    """One pod's share of the prompt stream."""

    def __init__(
        self,
        config: Config,
        client: aioredis.Redis,
        keys: Keys,
        sampler: GroupSampler,
        metrics: RolloutMetrics,
        tracer: Tracer,
    ) -> None:
        """Claim as the sampler's pod."""
        self.tracer = tracer
        self.settings = config.rollout
        self.lease_s = config.redis.lease_s
        self.keys = keys
        self.dead = DeadLetters(client, keys.dead, sampler.pod_id)
        self.prompts = WorkStream(client, keys.prompts, ROLLOUT_GROUP, sampler.pod_id)
        self.sampler = sampler
        self.metrics = metrics
        self.draining = False
        self._claiming = RetryPolicy(on_retry=metrics.redis_errors.inc)
        self._delivering = RetryPolicy(ANSWER_RETRY_S, metrics.redis_errors.inc)
        self._in_flight: dict[bytes, asyncio.Task[None]] = {}
        self._alone: bytes | None = None
        """The suspect under way; while there is one, nothing else is claimed."""
        self._next_take_over = 0.0
        self._fatal: BaseException | None = None
        self._wake = asyncio.Event()
        metrics.in_flight.set_function(lambda: float(self.in_flight))
        metrics.in_flight_limit.set(self.settings.max_in_flight)

    @property
    def in_flight(self) -> int:
        """Groups claimed and not yet answered."""
        return len(self._in_flight)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain.

        Raises:
            EngineDiedError: if the engine's process has ended.
            UserError: if this pod's student cannot serve the run that is under way.
        """
        renewing = asyncio.create_task(self._renew())
        try:
            await self._claim_until(stop)
        finally:
            self.draining = True
            await self._drain()
            await end_tasks([renewing])
        if self._fatal is not None:
            raise self._fatal

    async def _claim_until(self, stop: asyncio.Event) -> None:
        def _ending() -> bool:
            return stop.is_set() or self._fatal is not None

        while not _ending():
            with contextlib.suppress(*OUTAGES):
                async for attempt in self._claiming.attempts("claiming groups", until=_ending):
                    with attempt:
                        await self._claim()

    async def _claim(self) -> None:
        """Claim groups and begin on them, or wait a little where there is no room or no work."""
        room = 0 if self._alone is not None else self.settings.max_in_flight - self.in_flight
        if room <= 0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), BLOCK_MS / 1000)
            return
        claims: list[Claim] = []
        if time.monotonic() >= self._next_take_over:
            self._next_take_over = time.monotonic() + min(1.0, self.lease_s / 3)
            claims = await self.prompts.take_over(self.lease_s, room)
        if not claims:
            claims = await self.prompts.read(room, BLOCK_MS)
        await self._accept(claims)

    async def _accept(self, claims: Sequence[Claim]) -> None:
        suspects: list[Claim] = []
        for claim in claims:
            if claim.entry_id in self._in_flight:
                continue
            if SUSPECT_AFTER <= claim.lost < REFUSED_AFTER:
                suspects.append(claim)
            else:
                self._begin(claim)
        if suspects and not self._in_flight:
            alone = suspects.pop(0)
            log.warning("a group is sampled alone", entry=alone.entry_id.decode(), lost_pods=alone.lost)
            self._alone = alone.entry_id
            self._begin(alone)
        # Not kept for later: whatever this pod holds when it is lost is suspected of it.
        await self.prompts.give_back(suspects)

    def _begin(self, claim: Claim) -> None:
        if claim.redelivered:
            self.metrics.redeliveries.inc()
        task = asyncio.create_task(self._process(claim))
        self._in_flight[claim.entry_id] = task
        task.add_done_callback(lambda done: self._finished(claim.entry_id, done))

    def _finished(self, entry_id: bytes, task: asyncio.Task[None]) -> None:
        del self._in_flight[entry_id]
        if entry_id == self._alone:
            self._alone, self._next_take_over = None, 0.0
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal = self._fatal or error

    async def _process(self, claim: Claim) -> None:
        try:
            group = decode_prompt_group(claim.data)
        except UnusableGroupError as error:
            await self._deliver(claim, self.sampler.refuse(error.group, str(error)))
            return
        except WireError as error:
            await self._bury(claim, str(error))
            return
        if claim.lost >= REFUSED_AFTER:
            reason = f"{claim.lost} pods in a row were lost while they worked on it, the last ones on nothing else"
            await self._deliver(claim, self.sampler.refuse(group, reason, "deadly"))
            return
        with claim_span(self.tracer, group, claim.redelivered) as span:
            try:
                answer = await self.sampler.answer(group)
            except BaseException as error:
                # Cut off, or the pod is at its end: another pod shall have the group now, not after its lease.
                failed(span, "given back: the pod ends")
                died = self._fatal is not None or isinstance(error, EngineDiedError)
                leave = self.prompts.lose(claim) if died else self.prompts.give_back([claim])
                with contextlib.suppress(*OUTAGES):
                    await asyncio.shield(leave)
                raise
            self.metrics.record_answer(group, answer)
            note_answer(span, answer)
            with child_span(self.tracer, "deliver"):
                await self._deliver(claim, answer)

    async def _deliver(self, claim: Claim, answer: pb.TrajectoryGroup) -> None:
        also = None
        if answer.failure.code == pb.FAILURE_CODE_BAD_ITEM:
            self.metrics.dead_letters.inc()
            also = partial(self.dead.add_in, source=self.prompts.key, message=claim.data, reason=answer.failure.reason)
        try:
            # Sending twice is harmless: the trainer drops duplicates by group id.
            async for attempt in self._delivering.attempts("answering a group"):
                with attempt:
                    await self.prompts.answer(claim.entry_id, self.keys.trajectories, answer.SerializeToString(), also)
        except OUTAGES as error:
            log.error("answer dropped", group=answer.group_id, error=str(error))

    async def _bury(self, claim: Claim, reason: str) -> None:
        log.error("entry cannot be used", entry=claim.entry_id.decode(), reason=reason)
        self.metrics.refused.labels("message").inc()
        self.metrics.dead_letters.inc()
        try:
            async for attempt in self._delivering.attempts("moving an entry to the dead letters"):
                with attempt:
                    await self.prompts.dead_letter(claim, self.dead, reason)
        except OUTAGES as error:
            log.error("entry not moved", error=str(error))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.lease_s / 3)
            try:
                await self.prompts.renew(list(self._in_flight))
            except OUTAGES as error:
                self.metrics.redis_errors.inc()
                log.warning("claims not renewed", error=str(error))

    async def _drain(self) -> None:
        """Finish what is under way within the time allowed; give the rest back."""
        tasks = list(self._in_flight.values())
        if not tasks:
            return
        log.info("draining", groups=len(tasks))
        allowed_s = self.settings.drain_timeout_s if self._fatal is None else 0.0
        _, late = await asyncio.wait(tasks, timeout=allowed_s)
        if late:
            log.warning("giving groups back", groups=len(late))
            await end_tasks(late)
