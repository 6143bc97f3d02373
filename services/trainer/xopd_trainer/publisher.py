"""The publisher: writes a weight version to the store, announces it, and keeps the run's own key alive."""

from __future__ import annotations

import asyncio
import time

import redis.asyncio as aioredis
from safetensors.torch import save
from torch import Tensor

from xopd.streams import Keys
from xopd.v1 import weights_pb2 as pb
from xopd.weights import WeightAnnouncements, WeightStore


class Publisher:
    """Publishes the versions of one run."""

    def __init__(self, client: aioredis.Redis, keys: Keys, store: WeightStore, info: pb.RunInfo) -> None:
        """Publish through `store` and announce under `keys`."""
        self.client = client
        self.keys = keys
        self.store = store
        self.info = info
        self.announcements = WeightAnnouncements(client, keys)
        self.published_bytes = 0
        self._newest: pb.WeightManifest | None = None

    @property
    def version(self) -> int:
        """Newest version published; 0, the base, before the first."""
        return self._newest.version if self._newest is not None else 0

    async def publish(self, version: int, tensors: dict[str, Tensor]) -> None:
        """Store `tensors` (hub names) as policy version `version`, then announce it.

        The bytes are in the store before anybody hears of them.
        """
        data = await asyncio.to_thread(save, tensors, {"format": "pt"})
        manifest = await asyncio.to_thread(self.store.put, version, data, len(tensors))
        self._newest = manifest
        self.published_bytes += len(data)
        await self.announcements.publish(manifest)

    async def announce_run(self, finished: bool = False) -> None:
        """Write the run's key."""
        self.info.finished = finished
        await self.client.set(self.keys.run, self.info.SerializeToString())

    async def redis_forgot_us(self) -> bool:
        """Whether Redis has lost the run's key, and so everything else."""
        return not await self.client.exists(self.keys.run)

    async def announce_again(self) -> None:
        """Tell an empty Redis what it must know."""
        if self._newest is not None:
            self._newest.published_at = time.time()
            await self.announcements.publish(self._newest)
        await self.announce_run()
