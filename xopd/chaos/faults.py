"""The faults, what can happen to each part of a run, and a schedule of them that a seed decides.

Each fault returns when it is over, not when the run has recovered.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from xopd.chaos.system import System

STALL_S = 5.0
FULL_S = 8.0
LONGER_THAN_LEASE = 1.5


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    part: str
    what: str
    happen: Callable[[System], Awaitable[object]]

    @property
    def name(self) -> str:
        """For people and for tables."""
        return f"{self.part}: {self.what}"


async def _reset(system: System, part: str) -> None:
    system.proxies[part].reset()


def _freeze(role: str) -> Callable[[System], Awaitable[None]]:
    return lambda system: system.freeze(role, LONGER_THAN_LEASE * system.lease_s)


FAULTS = (
    Fault("rollout", "killed", lambda system: system.kill("rollout")),
    Fault("rollout", "frozen for longer than its lease", _freeze("rollout")),
    Fault("rollout", "killed while it updates its weights", lambda system: system.kill_at_update()),
    Fault("rollout", "one more pod joins", lambda system: system.join()),
    Fault("rollout", "a pod leaves (SIGTERM)", lambda system: system.leave()),
    Fault("teacher", "killed", lambda system: system.kill("teacher")),
    Fault("teacher", "frozen for longer than a lease", _freeze("teacher")),
    Fault("teacher", "connections reset", lambda system: _reset(system, "teacher")),
    Fault("teacher", "stalled for 5 s", lambda system: system.proxies["teacher"].stall(STALL_S)),
    Fault("trainer", "killed between checkpoints", lambda system: system.kill_trainer()),
    Fault("trainer", "frozen for longer than its lease", _freeze("trainer")),
    Fault("trainer", "disk full for 8 s: checkpoints, weights, ledger", lambda system: system.fill_disk(FULL_S)),
    Fault("trainer", "a bit of its newest weights flips", lambda system: system.damage_weights()),
    Fault("trainer", "a second one is started", lambda system: system.second_trainer()),
    Fault("redis", "killed", lambda system: system.kill("redis")),
    Fault("redis", "frozen for longer than a lease", _freeze("redis")),
    Fault("redis", "comes back empty", lambda system: system.empty_redis()),
    Fault("redis", "connections reset", lambda system: _reset(system, "redis")),
    Fault("redis", "stalled for 5 s", lambda system: system.proxies["redis"].stall(STALL_S)),
)
"""In the order in which `xopd chaos --each` goes through them: what joins leaves again."""

AT_RANDOM = tuple(fault for fault in FAULTS if "joins" not in fault.what and "leaves" not in fault.what)
"""Those that leave as many processes as there were."""


CALM_S = 5.0
"""Between the first step and the first fault, and at the end."""


@dataclass(frozen=True)
class Appointment:
    """A fault and its time, in seconds after the first step."""

    at_s: float
    fault: Fault


def draw_schedule(seed: int, seconds: float, every_s: float) -> list[Appointment]:
    """Faults over `seconds`, about one in `every_s` on average; some overlap. The same seed gives the same schedule."""
    rng = random.Random(seed)
    schedule, now = [], CALM_S
    while now < seconds - CALM_S:
        schedule.append(Appointment(now, rng.choice(AT_RANDOM)))
        now += rng.uniform(0.25, 1.75) * every_s
    return schedule
