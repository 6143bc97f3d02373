"""Items that cannot be used: counted, noted among the dead letters, and left out, so that the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from xopd.data.audio import AudioError
from xopd.data.features import FeatureCache
from xopd.prompts import UnusablePromptError
from xopd.scoring import UnscorableError
from xopd.streams import DeadLetters
from xopd_trainer.batch import ScoredGroup

log = structlog.get_logger(__name__)
Fault = Literal["prompt", "clip", "teacher"]


def fault_of(error: UnscorableError | UnusablePromptError) -> Fault:
    """Whether the teacher is to blame, or the item's prompt."""
    return "teacher" if isinstance(error, UnscorableError) else "prompt"


class Refusals:
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
        except (RedisError, OSError) as error:
            log.warning("no dead letter written", error=str(error))


def unusable_clips(features: FeatureCache, groups: Sequence[ScoredGroup]) -> dict[str, AudioError]:
    """The speech groups whose clip cannot be read here, by group id; the other clips are in `features` afterwards."""
    spoken = {group.group_id: group.audio for group in groups if group.audio is not None}
    try:
        features.get_many(list(spoken.values()))
    except AudioError:
        return {group_id: error for group_id, clip in spoken.items() if (error := _fault(features, *clip)) is not None}
    return {}


def _fault(features: FeatureCache, uri: str, sha256: str) -> AudioError | None:
    try:
        features.get(uri, sha256)
    except AudioError as error:
        return error
    return None
