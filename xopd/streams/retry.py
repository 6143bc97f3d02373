"""The retry policy for Redis and for disks: an idempotent action is tried again, less and less often, up to a limit."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from redis.exceptions import RedisError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from xopd.errors import UserError

log = structlog.get_logger(__name__)
OUTAGES = (RedisError, OSError)
"""What may pass: Redis cannot be reached, a disk is full."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, JITTER_S = 0.1, 5.0, 0.5


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class RetryPolicy:
    """How long an outage is waited for. Pauses double from 0.1 s to 5 s, with up to half a second of jitter."""

    retry_limit_s: float = math.inf
    """No new attempt begins after so many seconds; the last error is raised."""
    on_retry: Callable[[], None] = _nothing
    """Called before each pause."""

    def attempts(self, what: str, until: Callable[[], bool] = lambda: False) -> AsyncRetrying:
        """Attempts at an action, for `async for attempt in …: with attempt: …`.

        Args:
            what: names the action in the log.
            until: once it is true, the error of a failed attempt is raised.
        """

        def _note(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            log.warning(f"{what} failed: trying again", error=str(error), attempt=state.attempt_number)
            self.on_retry()

        limit = stop_after_delay(self.retry_limit_s)
        return AsyncRetrying(
            retry=retry_if_exception_type(OUTAGES),
            wait=wait_exponential_jitter(initial=FIRST_PAUSE_S, max=LONGEST_PAUSE_S, jitter=JITTER_S),
            stop=lambda state: until() or limit(state),
            before_sleep=_note,
            reraise=True,
        )

    async def reach_redis(self, what: str, action: Callable[[], Awaitable[object]]) -> None:
        """Do `action`, an exchange with the Redis of a run.

        Raises:
            UserError: if Redis stays away.
        """
        try:
            async for attempt in self.attempts(what):
                with attempt:
                    await action()
        except OUTAGES as error:
            raise UserError(
                f"redis.url: Redis cannot be reached any more ({error}); bring it back, then resume."
            ) from None

    async def write_ledger(self, action: Callable[[], object]) -> None:
        """Do `action`, one write of the ledger's; the last error is raised."""
        async for attempt in self.attempts("writing to the ledger"):
            with attempt:
                action()
