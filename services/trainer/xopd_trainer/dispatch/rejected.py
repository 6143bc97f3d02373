"""Items that cannot be used: counted, noted among the dead letters, and left out, so that the run goes on."""

from __future__ import annotations

from typing import Literal

import structlog
from prometheus_client import Counter

from xopd.prompts import UnusablePromptError
from xopd.scoring import UnscorableError
from xopd.streams import DeadLetters
from xopd.streams.retry import OUTAGES

log = structlog.get_logger(__name__)
Fault = Literal["prompt", "clip", "teacher"]


def fault_of(error: UnscorableError | UnusablePromptError) -> Fault:
    """Whether the teacher is to blame, or the item's prompt."""
    return "teacher" if isinstance(error, UnscorableError) else "prompt"


class Rejections:
    """Takes note of what is left out."""

    def __init__(self, dead: DeadLetters, counter: Counter, manifest: str) -> None:
        """Count by fault in `counter`; the items are those of `manifest`."""
        self.dead = dead
        self.counter = counter
        self.manifest = manifest
        self.newest = ""
        """The last reason: what is told if nothing is left."""

    async def note(self, what: str, fault: Fault, reason: str) -> None:
        """Leave out `what` (the id of an item or group)."""
        self.counter.labels(fault).inc()
        self.newest = reason
        log.warning("left out", what=what, fault=fault, reason=reason)
        try:
            await self.dead.add(self.manifest, what.encode(), reason)
        except OUTAGES as error:
            log.warning("no dead letter written", error=str(error))
