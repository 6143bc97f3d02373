"""The retry policy: what is tried again, until when, and what is raised then."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from xopd.errors import UserError
from xopd.streams.retry import LONGEST_PAUSE_S, RetryPolicy


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each pause; none is slept."""
    slept: list[float] = []

    async def _sleep(seconds: float, *_: object) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", _sleep)
    return slept


class Action:
    """Fails `failures` times, then succeeds."""

    def __init__(self, failures: float, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error


async def act(policy: RetryPolicy, action: Action, **options) -> None:
    async for attempt in policy.attempts("testing", **options):
        with attempt:
            await action()


@pytest.mark.parametrize("error", [RedisConnectionError("away"), OSError("the disk is full")])
async def test_an_outage_is_waited_for_with_growing_pauses(pauses: list[float], error: Exception):
    counted: list[int] = []
    action = Action(12, error)
    await act(RetryPolicy(on_retry=lambda: counted.append(1)), action)
    assert action.calls == 13
    assert len(counted) == len(pauses) == 12
    assert all(0.1 * 2**i <= pause <= 0.1 * 2**i + 0.5 for i, pause in enumerate(pauses[:5]))
    assert max(pauses) <= LONGEST_PAUSE_S == min(pauses[6:])
    assert len(set(pauses[:5])) == 5  # jitter: pods that lost Redis together do not come back together


async def test_another_error_is_raised_at_once(pauses: list[float]):
    action = Action(math.inf, ValueError("no outage"))
    with pytest.raises(ValueError, match="no outage"):
        await act(RetryPolicy(), action)
    assert (action.calls, pauses) == (1, [])


async def test_no_attempt_begins_after_the_limit(pauses: list[float]):
    action = Action(math.inf, RedisConnectionError("away"))
    with pytest.raises(RedisConnectionError, match="away"):
        await act(RetryPolicy(retry_limit_s=0.0), action)
    assert action.calls == 1


async def test_an_end_that_comes_meanwhile_ends_the_attempts(pauses: list[float]):
    ends = itertools.chain([False, False], itertools.repeat(True))
    action = Action(math.inf, RedisConnectionError("away"))
    with pytest.raises(RedisConnectionError):
        await act(RetryPolicy(), action, until=lambda: next(ends))
    assert action.calls == 3


async def test_a_redis_that_stays_away_is_one_sentence():
    with pytest.raises(UserError, match=r"^redis.url: Redis cannot be reached any more \(away\); bring it back"):
        await RetryPolicy(0.0).reach_redis("testing", Action(math.inf, RedisConnectionError("away")))


async def test_a_ledger_that_stays_locked_raises_its_own_error():
    def _full() -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        await RetryPolicy(0.0).write_ledger(_full)
