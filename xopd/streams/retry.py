"""How the trainer sits out an outage of Redis or a full disk: it tries again, less and less often, up to a limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from redis.exceptions import RedisError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from xopd.errors import UserError

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


async def reach_redis(what: str, patience_s: float, action: Callable[[], Awaitable[object]]) -> None:
    """Do `action`, an idempotent exchange with Redis, with these attempts.

    Raises:
        UserError: if Redis stays away.
    """
    try:
        async for attempt in retrying(what, patience_s):
            with attempt:
                await action()
    except OUTAGES as error:
        raise UserError(f"redis.url: Redis cannot be reached any more ({error}); bring it back, then resume.") from None


async def write_down(patience_s: float, action: Callable[[], object]) -> None:
    """Do `action`, one write of the ledger's, with these attempts; the last error is raised."""
    async for attempt in retrying("writing to the ledger", patience_s):
        with attempt:
            action()
