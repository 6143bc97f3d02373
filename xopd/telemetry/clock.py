"""What a process spends its time on, and what happened lately, from totals that only grow."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping


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


WINDOW_S = 30.0
"""How far back `lately` reaches (seconds)."""


class Recent:
    """Keeps the readings of the last `window_s` seconds."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        """Know nothing yet."""
        self.window_s = window_s
        self._readings: deque[tuple[float, Mapping[str, float]]] = deque()

    def growth(self, now: float, totals: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """Take in a reading of the totals at `now` (seconds, monotonic).

        Returns:
            The seconds since the oldest reading kept, and what each total has grown by since; a total that was not in
            that reading has grown from 0. At the first reading 0 seconds and no growth.
        """
        self._readings.append((now, dict(totals)))
        while len(self._readings) > 2 and self._readings[1][0] <= now - self.window_s:
            self._readings.popleft()
        since, oldest = self._readings[0]
        if since == now:
            return 0.0, dict.fromkeys(totals, 0.0)
        return now - since, {name: total - oldest.get(name, 0.0) for name, total in totals.items()}
