"""One trainer a run: a lock on the run's folder, and a lease in Redis on the keys that begin with the prefix.

The folder's lock is the operating system's: it is gone the moment its holder is, however that ended. The lease is a
key with an expiry, renewed while its holder lives; only the holder writes the run's key, which all pods obey. A
trainer that was stopped for longer than the lease, and finds another's name there, ends without writing anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import redis.asyncio as aioredis
import structlog

from xopd.errors import UserError
from xopd.service.folders import held_alone
from xopd.streams import Keys
from xopd.streams.retry import OUTAGES

log = structlog.get_logger(__name__)
LOCK = ".trainer.lock"
ASK_AGAIN_S = 0.5
TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= ARGV[3] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
"""Take the lease if nobody has it, we do, or the dead holder ARGV[3] does; returns who has it now."""
WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class LeaseLostError(UserError):
    """Another trainer has taken over: this one must not write anything any more."""


def locked_folder(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the run's folder against a second trainer. Raises UserError if another holds it, or it cannot be written."""
    taken = f"{folder}: another trainer is at work on this run; stop that one, or give --set run.name=NAME."
    return held_alone(folder, LOCK, taken)


class TrainerLease:
    """The right to lead the pods that read keys with our prefix."""

    def __init__(self, client: aioredis.Redis, keys: Keys, run_id: str, lease_s: float) -> None:
        """Hold as `run_id`; a holder that is silent for `lease_s` (seconds) has lost it."""
        self.client = client
        self.keys = keys
        self.run_id = run_id
        self.lease_s = lease_s

    async def acquire(self, own_dead: Collection[str]) -> None:
        """Take the lease. One that an earlier life of this run left behind (`own_dead`: its run ids) is taken at once.

        Raises:
            UserError: if another trainer keeps it for longer than a lease.
        """
        deadline = time.monotonic() + self.lease_s + 1.0
        while True:
            holder = await self._take("")
            if holder in own_dead:
                holder = await self._take(holder)
            if holder == self.run_id:
                return
            if time.monotonic() > deadline:
                raise UserError(
                    f"redis.prefix {self.keys.prefix}: the trainer of run {holder} leads the pods there; stop that one,"
                    " or give this run a redis.prefix of its own."
                )
            log.info("waiting for another trainer's lease to end", holder=holder)
            await asyncio.sleep(ASK_AGAIN_S)

    async def keep(self) -> None:
        """Renew until cancelled.

        Raises:
            LeaseLostError: if another trainer holds the lease.
        """
        while True:
            await asyncio.sleep(self.lease_s / 3)
            try:
                holder = await self._take("")
            except OUTAGES as error:
                log.warning("the lease is not renewed", error=str(error))
                continue
            if holder != self.run_id:
                raise self._lost(holder)

    async def write(self, key: str, value: bytes) -> None:
        """Set `key` while we hold the lease. Redis that came back empty has forgotten it: it is taken again.

        Raises:
            LeaseLostError: if another trainer holds it.
        """
        holder = await self._take("")
        if holder != self.run_id or not await self._run(WRITE, [self.keys.trainer, key], [self.run_id, value]):
            raise self._lost(holder)

    async def release(self) -> None:
        """Give the lease up, if Redis can be reached."""
        with contextlib.suppress(*OUTAGES):
            await self._run(RELEASE, [self.keys.trainer], [self.run_id])

    async def _take(self, dead: str) -> str:
        holder: Any = await self._run(TAKE, [self.keys.trainer], [self.run_id, int(1000 * self.lease_s), dead])
        return bytes(holder).decode(errors="replace")

    async def _run(self, script: str, keys: list[str], values: list[Any]) -> Any:
        return await self.client.eval(script, len(keys), *keys, *values)

    def _lost(self, holder: str) -> LeaseLostError:
        return LeaseLostError(
            f"redis.prefix {self.keys.prefix}: the trainer of run {holder} leads the pods now; this one was out of"
            f" touch for longer than redis.lease_s ({self.lease_s:g} s) and ends without writing anything."
        )
