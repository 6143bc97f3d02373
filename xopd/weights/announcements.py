"""Which weight versions there are: a short Redis stream of manifests, newest last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import redis.asyncio as aioredis

from xopd.streams.keys import Keys
from xopd.streams.work import FIELD, DeadLetters
from xopd.v1 import weights_pb2 as pb
from xopd.weights.base import WeightsUnavailableError
from xopd.wire import NewerProtocolError, WireError, decode_weight_manifest


class WeightAnnouncements:
    """Publish and find manifests."""

    def __init__(self, client: aioredis.Redis, keys: Keys, keep: int = 8, dead: DeadLetters | None = None) -> None:
        """Use the stream `keys.weights`, holding `keep` manifests; readers move what is none of them to `dead`."""
        self.client = client
        self.key = keys.weights
        self.keep = keep
        self.dead = dead
        self.on_unreadable: Callable[[], None] = lambda: None
        """Called for an entry that this reader has moved to the dead letters."""

    async def publish(self, manifest: pb.WeightManifest) -> None:
        """Announce a version whose bytes are in the store already."""
        await self.client.xadd(self.key, {FIELD: manifest.SerializeToString()}, maxlen=self.keep, approximate=False)

    async def find(self, run_id: str, oldest: int, newest: int) -> pb.WeightManifest | None:
        """The newest announced version of `run_id` within [oldest, newest], or None."""
        best: pb.WeightManifest | None = None
        entries: Any = await self.client.xrevrange(self.key)
        for entry_id, fields in entries or []:
            data = fields.get(FIELD, b"")
            try:
                manifest = decode_weight_manifest(data)
            except NewerProtocolError:
                continue  # newer pods beside this one need it
            except WireError as error:
                await self._discard(entry_id, data, str(error))
                continue
            fits = manifest.run_id == run_id and oldest <= manifest.version <= newest
            if fits and (best is None or manifest.version > best.version):
                best = manifest
        return best

    async def wait_for(self, run_id: str, oldest: int, newest: int, timeout_s: float) -> pb.WeightManifest:
        """Like `find`, waiting up to `timeout_s` (seconds) for the announcement.

        Raises:
            WeightsUnavailableError: if no such version was announced in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            manifest = await self.find(run_id, oldest, newest)
            if manifest is not None:
                return manifest
            if time.monotonic() > deadline:
                raise WeightsUnavailableError(
                    f"no weight version {oldest} to {newest} was announced within {timeout_s:g} s"
                )
            await asyncio.sleep(0.02)

    async def _discard(self, entry_id: bytes, data: bytes, reason: str) -> None:
        # Of several readers only the one that removed it tells of it.
        if self.dead is not None and await self.client.xdel(self.key, entry_id):
            await self.dead.add(self.key, data, reason)
            self.on_unreadable()
