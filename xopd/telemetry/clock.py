"""Where a service's time goes: seconds in which at least one piece of a kind of work was under way, and idle ones."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class ActivityClock:
    """For each kind of work, the length of the union of its intervals.

    Intervals of one kind may overlap: ten groups that are sampled at the same time for a second are one second.
    """

    def __init__(self, *kinds: str) -> None:
        """Start at zero, now."""
        self._began = time.monotonic()
        self._under_way = dict.fromkeys(kinds, 0)
        self._since = dict.fromkeys(kinds, 0.0)
        self._total = dict.fromkeys(kinds, 0.0)

    @contextlib.contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        """Count the time inside as `kind`, one of those that the clock was made with."""
        if self._under_way[kind] == 0:
            self._since[kind] = time.monotonic()
        self._under_way[kind] += 1
        try:
            yield
        finally:
            self._under_way[kind] -= 1
            if self._under_way[kind] == 0:
                self._total[kind] += time.monotonic() - self._since[kind]

    def seconds(self, kind: str) -> float:
        """Seconds of `kind` so far, what is under way included."""
        running = time.monotonic() - self._since[kind] if self._under_way[kind] else 0.0
        return self._total[kind] + running

    @property
    def idle(self) -> float:
        """Seconds of no kind, where the kinds do not overlap one another."""
        return max(0.0, time.monotonic() - self._began - sum(self.seconds(kind) for kind in self._total))
