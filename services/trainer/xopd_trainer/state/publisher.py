"""The publisher: has a weight version sent, announces it, and keeps the run's own key alive.

A full disk and a Redis that is away are waited for. A version that was lost or damaged on its way is sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog
from opentelemetry.trace import SpanKind

from xopd.errors import UserError
from xopd.streams.retry import RetryPolicy
from xopd.telemetry import NO_TRACER, Tracer, child_span, traceparent_of
from xopd.v1 import weights_pb2 as pb
from xopd.weights import WeightAnnouncements, WeightSender
from xopd.weights.base import VersionChangedError
from xopd_trainer.state.lease import TrainerLease

log = structlog.get_logger(__name__)
SendPolicy = Callable[[int, WeightSender], Awaitable[pb.WeightManifest]]
"""Sends the policy as it is now, as this version, through the sender, in the thread that owns the policy."""
MEND_EVERY_S = 5.0
"""All groups of a step miss a version at once; so long after a look at it, another would see the same (seconds)."""


class Publisher:
    """Publishes the versions of one run."""

    def __init__(
        self,
        lease: TrainerLease,
        sender: WeightSender,
        info: pb.RunInfo,
        send_policy: SendPolicy,
        retry_policy: RetryPolicy,
        tracer: Tracer = NO_TRACER,
        *,
        on_full_disk: Callable[[], None] = lambda: None,
        on_mended: Callable[[int], None] = lambda version: None,
    ) -> None:
        """Publish what `send_policy` sends through `sender`, and announce it as the holder of `lease`.

        What cannot be reached is dealt with by `retry_policy`; `on_full_disk` is called before each wait for the
        sender's place, `on_mended` with a version that had to be sent again.
        """
        self.tracer = tracer
        self.lease = lease
        self.client = lease.client
        self.keys = lease.keys
        self.sender = sender
        self.info = info
        self.send_policy = send_policy
        self.retry_policy = retry_policy
        self.announcements = WeightAnnouncements(lease.client, lease.keys)
        self.published_bytes = 0
        self.on_full_disk = on_full_disk
        self.on_mended = on_mended
        self._newest: pb.WeightManifest | None = None
        self._looked = (-1, 0.0)
        """The version of which a fault was last looked for, and when (time.monotonic)."""

    @property
    def version(self) -> int:
        """Newest version published; 0, the base, before the first."""
        return self._newest.version if self._newest is not None else 0

    async def publish(self, version: int) -> None:
        """Send the policy as policy version `version`, then announce it.

        It can be fetched before anybody hears of it.

        Raises:
            UserError: if it cannot be sent, or Redis not be reached, for too long.
        """
        about = {"xopd.policy_version": version}
        with child_span(self.tracer, "publish", about, kind=SpanKind.PRODUCER) as span:
            manifest = await self._send(version)
            span.set_attribute("xopd.bytes", manifest.size_bytes)
            manifest.traceparent = traceparent_of(span)
            self._newest = manifest
            self.published_bytes += manifest.size_bytes
            await self._announce(manifest)

    async def mend(self) -> None:
        """A pod could not have the newest version: announce it again, and send it again where it cannot be fetched.

        The policy must still be that version: another is never sent under its number.

        Raises:
            UserError: as `publish`.
        """
        manifest = self._newest
        looked_at_version, at = self._looked
        if manifest is None or (looked_at_version == manifest.version and time.monotonic() - at < MEND_EVERY_S):
            return
        problem = await asyncio.to_thread(self.sender.fault_of, manifest)
        if problem is not None:
            try:
                await self._send(manifest.version)
            except VersionChangedError:
                log.error("a damaged weight version cannot be sent again: the policy has moved on", fault=problem)
                return
            log.error("weight version sent again", version=manifest.version, fault=problem)
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

    async def _send(self, version: int) -> pb.WeightManifest:
        sending = replace(self.retry_policy, on_retry=self.on_full_disk)
        try:
            async for attempt in sending.attempts(f"sending weight version {version}"):
                with attempt:
                    manifest = await self.send_policy(version, self.sender)
        except OSError as error:
            raise UserError(
                f"{self.sender.place}: version {version} cannot be stored ({error}); free space there or"
                " correct the setting, then resume."
            ) from None
        return manifest

    async def _announce(self, manifest: pb.WeightManifest) -> None:
        what = f"announcing weight version {manifest.version}"
        await self.retry_policy.reach_redis(what, lambda: self.announcements.publish(manifest))
