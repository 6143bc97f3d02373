"""How long at least one piece of work of a kind was under way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class BusyClock:
    """Adds up the union of overlapping intervals."""

    def __init__(self) -> None:
        """Start at zero."""
        self._under_way = 0
        self._since = 0.0
        self._total = 0.0

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count the time inside as busy."""
        if self._under_way == 0:
            self._since = time.monotonic()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._total += time.monotonic() - self._since

    @property
    def seconds(self) -> float:
        """Busy time so far."""
        running = time.monotonic() - self._since if self._under_way else 0.0
        return self._total + running
