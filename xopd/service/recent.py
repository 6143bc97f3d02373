"""What happened lately, from totals that only grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

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
