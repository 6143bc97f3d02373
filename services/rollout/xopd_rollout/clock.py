"""Where a pod's time goes: sampling, applying weights, or waiting for work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class ActivityClock:
    """Adds up the union of the intervals in which at least one piece of each kind of work was under way."""

    def __init__(self) -> None:
        """Start now."""
        self._began = time.monotonic()
        self._under_way = {"busy": 0, "sync": 0}
        self._since = {"busy": 0.0, "sync": 0.0}
        self._total = {"busy": 0.0, "sync": 0.0}

    @contextlib.contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        """Count the time inside as `busy` or `sync`."""
        if self._under_way[kind] == 0:
            self._since[kind] = time.monotonic()
        self._under_way[kind] += 1
        try:
            yield
        finally:
            self._under_way[kind] -= 1
            if self._under_way[kind] == 0:
                self._total[kind] += time.monotonic() - self._since[kind]

    @property
    def busy(self) -> float:
        """Seconds of sampling."""
        return self._seconds("busy")

    @property
    def sync(self) -> float:
        """Seconds of waiting for weight versions and applying them."""
        return self._seconds("sync")

    @property
    def idle(self) -> float:
        """Seconds of neither."""
        return max(0.0, time.monotonic() - self._began - self.busy - self.sync)

    def _seconds(self, kind: str) -> float:
        running = time.monotonic() - self._since[kind] if self._under_way[kind] else 0.0
        return self._total[kind] + running
