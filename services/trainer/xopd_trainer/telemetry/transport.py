"""What Redis and gRPC added to a step's critical path: the time in which a message was under way and nobody worked.

Redis: from dispatch to the first claim, and from the last answer sent to its arrival. gRPC: a score call's time less
what the teacher says it queued and computed, on average: of calls in parallel, only the last is waited for. Clocks of
several machines are compared, so the figures are as good as their clocks agree.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from xopd.scoring import TeacherClient
from xopd.v1 import trajectory_pb2 as pb


class TransportTimes:
    """Gathers the stamps of one step."""

    def __init__(self, teacher: TeacherClient) -> None:
        """Begin a step now."""
        self.teacher = teacher
        self._dispatched_at = time.time()
        self._before = self._counters()
        self._first_started = math.inf
        self._last_finished = -math.inf
        self._last_arrival = self._dispatched_at

    def arrived(self, answer: pb.TrajectoryGroup) -> None:
        """Note an answer that has just come."""
        self._first_started = min(self._first_started, answer.started_at)
        self._last_finished = max(self._last_finished, answer.finished_at)
        self._last_arrival = time.time()

    def summary(self) -> dict[str, float]:
        """Seconds by carrier, for the step's record."""
        calls, seconds = (now - before for now, before in zip(self._counters(), self._before, strict=True))
        return {"redis": self._redis(), "grpc": max(0.0, seconds / calls) if calls else 0.0}

    def _redis(self) -> float:
        if self._first_started == math.inf:
            return 0.0
        there = self._first_started - self._dispatched_at
        back = self._last_arrival - self._last_finished
        return max(0.0, there) + max(0.0, back)

    def _counters(self) -> Sequence[float]:
        counters = self.teacher.counters
        return (counters.calls, counters.score_seconds - counters.pod_seconds)
