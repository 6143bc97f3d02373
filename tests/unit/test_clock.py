"""The clock adds up the union of intervals, by kind."""

from __future__ import annotations

import contextlib

import pytest

from xopd.telemetry import clock as clock_module
from xopd.telemetry.clock import ActivityClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; a test sets it."""
    time = [100.0]
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: time[0])
    return time


def test_overlapping_intervals_count_once(now: list[float]):
    clock = ActivityClock("busy", "sync")
    with clock.counting("busy"):
        now[0] = 101.0
        with clock.counting("busy"):
            now[0] = 103.0
            assert clock.seconds("busy") == 3.0
        now[0] = 104.0
    now[0] = 110.0
    assert (clock.seconds("busy"), clock.seconds("sync"), clock.idle) == (4.0, 0.0, 6.0)
    with clock.counting("busy"):
        now[0] = 112.0
    assert clock.seconds("busy") == 6.0


def test_kinds_are_counted_apart_and_an_error_ends_its_interval(now: list[float]):
    clock = ActivityClock("busy", "sync")
    with contextlib.suppress(RuntimeError), clock.counting("sync"):
        now[0] = 102.0
        raise RuntimeError
    now[0] = 105.0
    with clock.counting("busy"):
        now[0] = 106.0
        assert clock.idle == 3.0
    assert (clock.seconds("busy"), clock.seconds("sync"), clock.idle) == (1.0, 2.0, 3.0)
