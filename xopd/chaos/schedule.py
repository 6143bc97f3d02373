"""When what happens: a schedule that a seed decides."""

from __future__ import annotations

import random
from dataclasses import dataclass

from xopd.chaos.faults import AT_RANDOM, Fault

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
