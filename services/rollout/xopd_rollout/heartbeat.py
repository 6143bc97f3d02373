"""What the pod says of itself: a key that expires when the pod stops saying it, and gauges read from Redis."""

from __future__ import annotations

import asyncio
import contextlib
import time

import redis.asyncio as aioredis
import structlog

from xopd.service.lifecycle import end_tasks
from xopd.streams import Keys
from xopd.streams.retry import OUTAGES
from xopd.telemetry.clock import ActivityClock, Recent
from xopd.v1 import weights_pb2 as pb
from xopd.weights import WeightAnnouncements
from xopd.wire import PROTOCOL
from xopd_rollout.environment import ENGINE, engine_version
from xopd_rollout.metrics import RolloutMetrics
from xopd_rollout.updater import NEWEST, PolicyUpdater
from xopd_rollout.worker import Worker

log = structlog.get_logger(__name__)
BEATS_KEPT = 3
"""The key outlives so many missed beats."""


class Heartbeat:
    """Writes PodStatus every `heartbeat_s` seconds, while used as a context manager."""

    def __init__(
        self,
        client: aioredis.Redis,
        keys: Keys,
        worker: Worker,
        updater: PolicyUpdater,
        clock: ActivityClock,
        metrics: RolloutMetrics,
        url: str,
    ) -> None:
        """Speak for `worker`, reachable at `url`."""
        self.client = client
        self.worker = worker
        self.updater = updater
        self.clock = clock
        self.metrics = metrics
        self.every_s = worker.settings.heartbeat_s
        self.announcements = WeightAnnouncements(client, keys)
        self.pod_id = worker.sampler.pod_id
        self.key = keys.pod(self.pod_id)
        self.url = url
        self.started_at = time.time()
        self.recent = Recent()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Heartbeat:
        """Begin to beat."""
        self._task = asyncio.create_task(self._beat_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and take the key away: the pod is gone."""
        assert self._task is not None
        await end_tasks([self._task])
        with contextlib.suppress(*OUTAGES):
            await self.client.delete(self.key)

    def status(self) -> pb.PodStatus:
        """The pod, now."""
        policy = self.updater.policy
        return pb.PodStatus(
            protocol=PROTOCOL,
            pod_id=self.pod_id,
            run_id=policy.run_id if policy else "",
            policy_version=self.updater.version,
            engine=ENGINE,
            engine_version=engine_version(),
            url=self.url,
            in_flight_groups=self.worker.in_flight,
            generated_tokens=self.metrics.generated,
            busy_seconds=self.clock.seconds("busy"),
            sync_seconds=self.clock.seconds("sync"),
            idle_seconds=self.clock.idle,
            started_at=self.started_at,
            beat_at=time.time(),
            draining=self.worker.draining,
            recent=self._lately(),
        )

    def _lately(self) -> pb.Activity:
        clock = self.clock
        totals = {
            "generated_tokens": float(self.metrics.generated),
            "busy_seconds": clock.seconds("busy"),
            "sync_seconds": clock.seconds("sync"),
            "idle_seconds": clock.idle,
        }
        seconds, grown = self.recent.growth(time.monotonic(), totals)
        tokens = int(grown.pop("generated_tokens"))
        return pb.Activity(seconds=seconds, generated_tokens=tokens, **grown)

    async def _beat_for_ever(self) -> None:
        while True:
            try:
                await self._beat()
            except OUTAGES as error:
                self.metrics.redis_errors.inc()
                log.warning("no heartbeat", error=str(error))
            await asyncio.sleep(self.every_s)

    async def _beat(self) -> None:
        expiry_ms = int(self.every_s * BEATS_KEPT * 1000)
        await self.client.set(self.key, self.status().SerializeToString(), px=expiry_ms)
        self.metrics.queue_depth.set(await self.worker.prompts.length())
        policy = self.updater.policy
        if policy is not None:
            newest = await self.announcements.find(policy.run_id, policy.version, NEWEST)
            self.metrics.lag.set(newest.version - policy.version if newest else 0)
