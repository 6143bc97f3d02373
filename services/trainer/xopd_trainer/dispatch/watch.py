"""Keeps the run going while it waits: an emptied Redis, overdue groups, and a silence that has lasted too long."""

from __future__ import annotations

import asyncio
import time

import structlog

from xopd.errors import UserError
from xopd.streams.retry import OUTAGES
from xopd_trainer.dispatch.dispatcher import Dispatcher
from xopd_trainer.state.publisher import Publisher

log = structlog.get_logger(__name__)
INTERVAL_S = 1.0


async def watch(dispatcher: Dispatcher, publisher: Publisher, stall_timeout_s: float) -> None:
    """Run until cancelled.

    Raises:
        UserError: if groups wait and none has been answered for `stall_timeout_s` (seconds).
    """
    while True:
        await asyncio.sleep(INTERVAL_S)
        silence = time.monotonic() - dispatcher.last_progress
        if dispatcher.unanswered and silence > stall_timeout_s:
            raise UserError(
                f"no trajectory has arrived for {silence:.0f} s while {dispatcher.unanswered} groups wait:"
                " see that rollout pods run and reach the same Redis, then resume."
            )
        try:
            if await publisher.redis_forgot_us():
                log.warning("Redis came back empty: announcing and dispatching again")
                await publisher.announce_again()
                await dispatcher.retry_all("Redis came back empty")
            else:
                await dispatcher.retry_due()
        except OUTAGES as error:
            log.warning("Redis cannot be reached", error=str(error))
