"""The publisher: writes a weight version to the store, announces it, and keeps the run's own key alive.

A store that is full and a Redis that is away are waited for. A version that is damaged in the store is written again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog
from opentelemetry.trace import SpanKind
from safetensors.torch import save

from xopd.errors import UserError
from xopd.streams.retry import RetryPolicy
from xopd.telemetry import NO_TRACER, Tracer, child_span, traceparent_of
from xopd.v1 import weights_pb2 as pb
from xopd.weights import WeightAnnouncements, WeightStore
from xopd.weights.base import NamedTensors
from xopd_trainer.learning.handle import LearnerHandle
from xopd_trainer.state.lease import TrainerLease

log = structlog.get_logger(__name__)
MEND_EVERY_S = 5.0
"""All groups of a step miss a version at once; so long after a look at it, another would see the same (seconds)."""


@dataclass(frozen=True)
class WeightFile:
    """What a weight version holds."""

    data: bytes
    """A whole safetensors file of tensors under hub names."""
    tensor_count: int


class _InMemory:
    """A `WeightSender` that sends nothing, and keeps the version as a file in memory."""

    transport = place = ""

    def clear(self) -> None:
        """Nothing is left over."""

    def send(self, version: int, tensors: NamedTensors) -> pb.WeightManifest:
        """Keep it."""
        self.file = WeightFile(save(dict(tensors), {"format": "pt"}), len(tensors.specs))
        return pb.WeightManifest(version=version)

    def fault_of(self, manifest: pb.WeightManifest) -> str | None:
        """None: memory has no faults."""
        return None


async def weight_file(learner: LearnerHandle) -> WeightFile:
    """The trained tensors as they are now."""
    kept = _InMemory()
    await learner.publish(0, kept)
    return kept.file


class Publisher:
    """Publishes the versions of one run."""

    def __init__(
        self,
        lease: TrainerLease,
        store: WeightStore,
        info: pb.RunInfo,
        policy: Callable[[], Awaitable[WeightFile]],
        retry_policy: RetryPolicy,
        tracer: Tracer = NO_TRACER,
        *,
        on_full_disk: Callable[[], None] = lambda: None,
        on_mended: Callable[[int], None] = lambda version: None,
    ) -> None:
        """Publish what `policy` gives through `store`, and announce it as the holder of `lease`.

        What cannot be reached is dealt with by `retry_policy`; `on_full_disk` is called before each wait for the store,
        `on_mended` with a version that had to be written again.
        """
        self.tracer = tracer
        self.lease = lease
        self.client = lease.client
        self.keys = lease.keys
        self.store = store
        self.info = info
        self.policy = policy
        self.retry_policy = retry_policy
        self.announcements = WeightAnnouncements(lease.client, lease.keys)
        self.published_bytes = 0
        self.on_full_disk = on_full_disk
        self.on_mended = on_mended
        self._newest: pb.WeightManifest | None = None
        self._looked = (-1, 0.0)
        """The version that was last looked at in the store, and when (time.monotonic)."""

    @property
    def version(self) -> int:
        """Newest version published; 0, the base, before the first."""
        return self._newest.version if self._newest is not None else 0

    async def publish(self, version: int) -> None:
        """Store the policy as policy version `version`, then announce it.

        The bytes are in the store before anybody hears of them.

        Raises:
            UserError: if the store cannot be written to, or Redis not be reached, for too long.
        """
        about = {"xopd.policy_version": version}
        with child_span(self.tracer, "publish", about, kind=SpanKind.PRODUCER) as span:
            file = await self.policy()
            span.set_attribute("xopd.bytes", len(file.data))
            manifest = await self._stored(version, file)
            manifest.traceparent = traceparent_of(span)
            self._newest = manifest
            self.published_bytes += len(file.data)
            await self._announce(manifest)

    async def mend(self) -> None:
        """A pod could not have the newest version: announce it again, and write it again where the store has lost it.

        The policy must still be that version.

        Raises:
            UserError: as `publish`.
        """
        manifest = self._newest
        looked_at_version, at = self._looked
        if manifest is None or (looked_at_version == manifest.version and time.monotonic() - at < MEND_EVERY_S):
            return
        problem = await asyncio.to_thread(self.store.fault_of, manifest)
        if problem is not None:
            file = await self.policy()
            if hashlib.sha256(file.data).hexdigest() != manifest.sha256:
                log.error("a damaged weight version cannot be written again: the policy has moved on", fault=problem)
                return
            log.error("weight version written again", version=manifest.version, fault=problem)
            await self._stored(manifest.version, file)
            self.on_mended(manifest.version)
        await self._announce(manifest)
        self._looked = manifest.version, time.monotonic()

    async def announce_run(self, finished: bool = False) -> None:
        """Write the run's key. Raises LeaseLostError where another trainer leads, UserError without Redis."""
        self.info.finished = finished
        data = self.info.SerializeToString()
        await self.retry_policy.reach_redis("writing the run's key", lambda: self.lease.write(self.keys.run, data))

    async def redis_forgot_us(self) -> bool:
        """Whether Redis has lost the run's key, and so everything else."""
        return not await self.client.exists(self.keys.run)

    async def announce_again(self) -> None:
        """Tell an empty Redis what it must know."""
        if self._newest is not None:
            self._newest.published_at = time.time()
            await self._announce(self._newest)
        await self.announce_run()

    async def _stored(self, version: int, file: WeightFile) -> pb.WeightManifest:
        storing = replace(self.retry_policy, on_retry=self.on_full_disk)
        try:
            async for attempt in storing.attempts(f"storing weight version {version}"):
                with attempt:
                    manifest = await asyncio.to_thread(self.store.put, version, file.data, file.tensor_count)
        except OSError as error:
            raise UserError(
                f"weights.uri {self.store.uri}: version {version} cannot be stored ({error}); free space there or"
                " correct the setting, then resume."
            ) from None
        return manifest

    async def _announce(self, manifest: pb.WeightManifest) -> None:
        what = f"announcing weight version {manifest.version}"
        await self.retry_policy.reach_redis(what, lambda: self.announcements.publish(manifest))
