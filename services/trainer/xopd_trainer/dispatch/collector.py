"""The collector: reads answers, drops what must not be trained, and hands the rest to whoever waits for it.

Duplicates and stale answers are dropped here, before they cost teacher time. An accepted training answer stays in
the stream, unacknowledged, until a checkpoint holds its step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import structlog

from xopd.ledger import Ledger, LedgerUnavailableError
from xopd.streams import Claim, DeadLetters, WorkStream
from xopd.streams.retry import OUTAGES, RetryPolicy
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import WireError, decode_trajectory_group
from xopd_trainer.dispatch.dispatcher import Dispatcher, PolicyMissingError
from xopd_trainer.dispatch.judgement import judge

log = structlog.get_logger(__name__)
PAUSE_S = 2.0
"""Pause before a group is sent again whose policy no pod could have twice; three times as long each further time."""


class Collector:
    """Reads the trajectory stream of one run."""

    def __init__(
        self,
        trajectories: WorkStream,
        dispatcher: Dispatcher,
        ledger: Ledger,
        run_id: str,
        vocabulary_size: int,
        dead: DeadLetters,
        *,
        on_policy_unavailable: Callable[[], Awaitable[None]] | None = None,
        on_unreadable: Callable[[], None] = lambda: None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """Read `trajectories` for the groups of `dispatcher`; what cannot be used goes to `dead`.

        Args:
            trajectories: the stream.
            dispatcher: knows what is waited for.
            ledger: is told what is dropped.
            run_id: of this life of the trainer.
            vocabulary_size: rows of the student's head; token ids lie below it.
            dead: takes what cannot be used.
            on_policy_unavailable: awaited when a pod could not have the policy version of a group, before that is
                dispatched again.
            on_unreadable: called for an entry that cannot be decoded.
            on_refused: called for an answer that is not what was asked for.
        """
        self.trajectories = trajectories
        self.dispatcher = dispatcher
        self.ledger = ledger
        self.run_id = run_id
        self.vocabulary_size = vocabulary_size
        self.dead = dead
        self.generated_tokens = 0
        """Tokens of accepted answers."""
        self.on_policy_unavailable = on_policy_unavailable
        self.on_unreadable = on_unreadable
        self.on_refused = on_refused
        self._held: list[bytes] = []

    async def run(self) -> None:
        """Read until cancelled. A lost connection is retried; Redis may come back empty."""
        while True:
            async for attempt in RetryPolicy().attempts("reading the trajectory stream"):
                with attempt:
                    for claim in await self.trajectories.read(count=64, block_ms=500):
                        await self._take(claim)

    async def acknowledge_held(self) -> None:
        """A checkpoint now holds every step trained so far: acknowledge their trajectories.

        Where Redis is away, the next checkpoint does so.
        """
        held = list(self._held)
        try:
            for start in range(0, len(held), 512):
                await self.trajectories.acknowledge(held[start : start + 512])
        except OUTAGES as error:
            log.warning("trajectories are not acknowledged yet", entries=len(held), error=str(error))
        else:
            self._held = self._held[len(held) :]

    async def _take(self, claim: Claim) -> None:
        try:
            answer = decode_trajectory_group(claim.data)
        except WireError as error:
            self.on_unreadable()
            log.warning("entry dropped", entry=claim.entry_id.decode(), reason=str(error))
            await self._done_with(claim, str(error))
            return
        accepted = await self._settle(answer)
        if accepted and answer.purpose == pb.PURPOSE_TRAIN:
            self._held.append(claim.entry_id)
        else:
            await self._done_with(claim)
        if accepted:
            self.generated_tokens += sum(len(t.token_ids) for t in answer.trajectories)
            self.dispatcher.resolve(answer)

    async def _settle(self, answer: pb.TrajectoryGroup) -> bool:
        """Whether the answer can be used; what cannot is counted, and its group sent again or given up."""
        wanted = self.dispatcher.waiting(answer.group_id)
        judgement = judge(answer, wanted, self.run_id, self.vocabulary_size)
        responses, group_id, reason = len(answer.trajectories), answer.group_id, judgement.reason
        match judgement.outcome:
            case "other_life" | "duplicate" if answer.purpose == pb.PURPOSE_TRAIN:
                self._drop(group_id, "stale" if judgement.outcome == "other_life" else "duplicate", responses, reason)
            case "failed":
                assert wanted is not None
                await self._settle_failed(answer, reason, wanted.attempt)
            case "mismatched":
                await self._reject(answer, reason)
                await self.dispatcher.retry(group_id, "stale", reason, responses)
            case "stale":
                await self.dispatcher.retry(group_id, "stale", reason, responses, PolicyMissingError)
        return judgement.outcome == "accepted"

    async def _settle_failed(self, answer: pb.TrajectoryGroup, reason: str, attempt: int) -> None:
        """Settle a group that a pod could not answer, at its attempt `attempt` (counted from 0)."""
        if answer.failure.code == pb.FAILURE_CODE_POLICY_UNAVAILABLE:
            if self.on_policy_unavailable is not None:
                await self.on_policy_unavailable()
            # The first time at once; a store that is out of reach for a pod alone needs time.
            pause_s = PAUSE_S * 3 ** (attempt - 1) if attempt else 0.0
            await self.dispatcher.retry(answer.group_id, "failed", reason, error=PolicyMissingError, pause_s=pause_s)
        elif answer.failure.code == pb.FAILURE_CODE_ENGINE:
            await self.dispatcher.retry(answer.group_id, "failed", reason)
        else:
            await self.dispatcher.fail(answer.group_id, reason)

    async def _reject(self, answer: pb.TrajectoryGroup, problem: str) -> None:
        self.on_refused()
        try:
            await self.dead.add(self.trajectories.key, answer.SerializeToString(), problem)
        except OUTAGES as error:
            log.warning("no dead letter written", group=answer.group_id, error=str(error))

    async def _done_with(self, claim: Claim, fault: str | None = None) -> None:
        try:
            if fault is None:
                await self.trajectories.acknowledge([claim.entry_id])
            else:
                await self.trajectories.dead_letter(claim, self.dead, fault)
        except OUTAGES as error:
            # It stays in the stream until the next life clears it; the entries read with it must not wait for that.
            log.warning("an entry is not acknowledged", error=str(error))

    def _drop(self, group_id: str, kind: Literal["duplicate", "stale"], responses: int, reason: str) -> None:
        try:
            self.ledger.dropped(group_id, kind, responses, reason)
        except LedgerUnavailableError as error:
            # Nothing depends on this line but its own count.
            log.warning("a dropped answer is not in the ledger", group=group_id, kind=kind, error=str(error))
