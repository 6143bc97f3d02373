"""The dispatcher: adds prompt groups to the stream, and knows which are still unanswered.

Invariants:
- A group has one id for its step, item and modality, however often it is dispatched.
- `submit` gives one future a group; it is resolved exactly once, by the first usable answer.
- Redis carries work, never truth: what is unanswered lies here, and is dispatched again when Redis forgot it, when
  it has been silent too long, or when a pod says it could not do it.
- The ledger has every training group before it is sent, each further dispatch with its cause, and who is given up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from xopd.ledger import Ledger
from xopd.ledger.ledger import DropKind
from xopd.streams import WorkStream
from xopd.streams.retry import RetryPolicy
from xopd.telemetry import NO_TRACER, Tracer, context_from, finished_span, shown
from xopd.v1 import trajectory_pb2 as pb

log = structlog.get_logger(__name__)


class GroupFailedError(RuntimeError):
    """A group that cannot be answered; the text is the last reason."""


class PolicyMissingError(GroupFailedError):
    """No pod could sample the group from the policy version that was asked for: nothing is wrong with its item."""


@dataclass
class Outstanding:
    """A group that waits for its answer."""

    group: pb.PromptGroup
    future: asyncio.Future[pb.TrajectoryGroup]
    sent_at: float
    """By time.monotonic()."""
    pausing: Pause | None = None
    """Where it waits to be sent again."""


@dataclass(frozen=True)
class Pause:
    """Until when (time.monotonic), and what the ledger will be told then."""

    until: float
    kind: DropKind
    reason: str
    responses: int


class Dispatcher:
    """Sends groups and holds their futures."""

    def __init__(
        self,
        prompts: WorkStream,
        ledger: Ledger,
        redispatch_after_s: float,
        max_attempts: int,
        retry_policy: RetryPolicy,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """Write to `prompts`; an outage of Redis, or of the ledger's disk, is dealt with by `retry_policy`."""
        self.tracer = tracer
        self.prompts = prompts
        self.ledger = ledger
        self.redispatch_after_s = redispatch_after_s
        self.max_attempts = max_attempts
        self.retry_policy = retry_policy
        self.last_progress = time.monotonic()
        """When a group was last submitted or answered."""
        self._outstanding: dict[str, Outstanding] = {}

    async def submit(self, groups: Sequence[pb.PromptGroup]) -> dict[str, asyncio.Future[pb.TrajectoryGroup]]:
        """Dispatch groups of one step; the futures, by group id, resolve to answers or raise GroupFailedError.

        Raises:
            UserError: if Redis cannot be reached for too long.
        """
        loop = asyncio.get_running_loop()
        self.last_progress = time.monotonic()
        for group in groups:
            if group.group_id in self._outstanding:
                raise ValueError(f"group {group.group_id} is already under way")
            self._outstanding[group.group_id] = Outstanding(group, loop.create_future(), time.monotonic())
        training = {group.group_id: len(group.seeds) for group in groups if group.purpose == pb.PURPOSE_TRAIN}
        if training:
            await self._book(lambda: self.ledger.dispatched(groups[0].step, training))
        futures = {group.group_id: self._outstanding[group.group_id].future for group in groups}
        await self._send([self._outstanding[group.group_id] for group in groups])
        return futures

    def waiting(self, group_id: str) -> pb.PromptGroup | None:
        """The group as dispatched, while it is unanswered; else None."""
        entry = self._outstanding.get(group_id)
        return entry.group if entry else None

    @property
    def unanswered(self) -> int:
        """Groups without an answer."""
        return len(self._outstanding)

    @property
    def oldest_age_s(self) -> float:
        """Seconds since the longest-silent unanswered group was last sent; 0 without one."""
        sent = [entry.sent_at for entry in self._outstanding.values()]
        return time.monotonic() - min(sent) if sent else 0.0

    def resolve(self, answer: pb.TrajectoryGroup) -> None:
        """Hand a usable answer to whoever waits for it."""
        entry = self._outstanding.pop(answer.group_id)
        self.last_progress = time.monotonic()
        if not entry.future.done():
            entry.future.set_result(answer)

    async def fail(self, group_id: str, reason: str, error: type[GroupFailedError] = GroupFailedError) -> None:
        """Give a group up with `error`: another attempt would end alike."""
        entry = self._outstanding.pop(group_id)
        self.last_progress = time.monotonic()
        log.warning("group given up", group=group_id, reason=reason)
        if entry.group.purpose == pb.PURPOSE_TRAIN:
            await self._book(lambda: self.ledger.dead_lettered(group_id, reason))
        if not entry.future.done():
            entry.future.set_exception(error(reason))

    async def retry(
        self,
        group_id: str,
        kind: DropKind,
        reason: str,
        responses: int = 0,
        error: type[GroupFailedError] = GroupFailedError,
        pause_s: float = 0.0,
    ) -> None:
        """Dispatch a group once more, or give it up after too many attempts.

        Args:
            group_id: the group.
            kind: why, for the ledger.
            reason: why, for a person.
            responses: how many came and could not be used.
            error: with which the group is given up.
            pause_s: sent no sooner than after so long (seconds), by `retry_due`.
        """
        entry = self._outstanding[group_id]
        if entry.group.attempt + 1 >= self.max_attempts:
            await self.fail(group_id, f"{reason} (after {self.max_attempts} attempts)", error)
            return
        if pause_s > 0.0:
            entry.pausing = Pause(time.monotonic() + pause_s, kind, reason, responses)
        else:
            await self._again([entry], kind, reason, responses)

    async def retry_due(self) -> None:
        """Dispatch what has paused long enough, and once more what has been silent too long; gives nothing up."""
        now = time.monotonic()
        for entry in list(self._outstanding.values()):
            pause = entry.pausing
            if pause is not None and now >= pause.until:
                await self._again([entry], pause.kind, pause.reason, pause.responses)
        waiting = [entry for entry in self._outstanding.values() if entry.pausing is None]
        silent = [entry for entry in waiting if now - entry.sent_at > self.redispatch_after_s]
        await self._again(silent, "overdue", "unanswered too long")

    async def retry_all(self, reason: str) -> None:
        """Dispatch everything unanswered once more, such as after Redis came back empty."""
        await self._again(list(self._outstanding.values()), "forgotten", reason)

    async def _again(self, entries: Sequence[Outstanding], kind: DropKind, reason: str, responses: int = 0) -> None:
        if not entries:
            return
        log.info("dispatching again", groups=len(entries), reason=reason)
        training = [entry.group.group_id for entry in entries if entry.group.purpose == pb.PURPOSE_TRAIN]
        if training:
            await self._book(lambda: self.ledger.sent_again(training, kind, reason, responses))
        now = time.time()
        for entry in entries:
            entry.pausing = None
            entry.group.attempt += 1
            about, parent = {"xopd.attempt": entry.group.attempt, "xopd.reason": shown(reason)}, entry.group.traceparent
            finished_span(self.tracer, "dispatch again", now, now, about, parent=context_from(parent))
        await self._send(entries)

    async def _book(self, write: Callable[[], None]) -> None:
        await self.retry_policy.write_ledger(write)

    async def _send(self, entries: Sequence[Outstanding]) -> None:
        for entry in entries:
            entry.group.dispatched_at = time.time()
            entry.sent_at = time.monotonic()
        messages = [entry.group.SerializeToString() for entry in entries]
        # What an attempt sent before it failed is sent twice: the collector drops the second answer.
        await self.retry_policy.reach_redis("dispatching", lambda: self.prompts.add(messages))
