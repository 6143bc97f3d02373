"""How the trainer sits out an outage of Redis or a full disk: it tries again, less and less often, up to a limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog
from redis.exceptions import RedisError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

T = TypeVar("T")
log = structlog.get_logger(__name__)
OUTAGES = (RedisError, OSError)
"""What may pass: Redis cannot be reached, a disk is full."""


def retrying(what: str, patience_s: float, on_wait: Callable[[], None] | None = None) -> AsyncRetrying:
    """Attempts at an idempotent action, until one succeeds or `patience_s` (seconds) have passed.

    Args:
        what: names the action in the log.
        patience_s: after this long, the last error is raised.
        on_wait: called before each wait.
    """

    def _say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        log.warning(f"{what} failed: trying again", error=str(error), attempt=state.attempt_number)
        if on_wait is not None:
            on_wait()

    return AsyncRetrying(
        retry=retry_if_exception_type(OUTAGES),
        wait=wait_exponential_jitter(initial=0.1, max=5.0),
        stop=stop_after_delay(patience_s),
        before_sleep=_say,
        reraise=True,
    )


async def patiently(what: str, patience_s: float, action: Callable[[], T]) -> T:
    """Do `action`, which is quick and leaves nothing half done, with these attempts; returns what it returns."""
    async for attempt in retrying(what, patience_s):
        with attempt:
            done = action()
    return done
