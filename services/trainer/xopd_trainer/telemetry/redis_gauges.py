"""Gauges of the queues and of Redis itself, read now and then while the run goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio as aioredis

from xopd.ledger import Ledger
from xopd.streams import Keys
from xopd.streams.keys import ROLLOUT_GROUP, TRAINER_GROUP
from xopd.streams.retry import OUTAGES
from xopd_trainer.telemetry.metrics import TrainerMetrics

INTERVAL_S = 2.0
"""Seconds between two readings."""


async def keep_gauges(client: aioredis.Redis, keys: Keys, metrics: TrainerMetrics, ledger: Ledger) -> None:
    """Read until cancelled. While Redis cannot be reached the gauges stay as they were, and `redis_up` is 0."""
    while True:
        metrics.record_accounts(ledger.accounts)
        try:
            await read_gauges(client, keys, metrics)
            metrics.redis_up.set(1)
        except OUTAGES:
            metrics.redis_up.set(0)
        await asyncio.sleep(INTERVAL_S)


async def read_gauges(client: aioredis.Redis, keys: Keys, metrics: TrainerMetrics) -> None:
    """Read them once, in one round trip. Raises RedisError or OSError."""
    streams = {"prompts": keys.prompts, "trajectories": keys.trajectories, "dead": keys.dead}
    groups = {"prompts": ROLLOUT_GROUP, "trajectories": TRAINER_GROUP}
    pipe = client.pipeline(transaction=False)
    pipe.time()
    pipe.info("memory")
    for key in streams.values():
        pipe.xlen(key)
        pipe.xrange(key, count=1)
    for stream, group in groups.items():
        pipe.xpending(streams[stream], group)
    now, memory, *answers = await pipe.execute(raise_on_error=False)
    lengths, pendings = answers[:6], answers[6:]
    for answer in (now, *lengths):
        if isinstance(answer, Exception):
            raise answer
    now_s = now[0] + now[1] / 1e6
    # A hosted Redis may refuse INFO: the queues are worth showing all the same.
    if not isinstance(memory, Exception):
        metrics.redis_memory.set(memory["used_memory"])
        metrics.redis_limit.set(memory.get("maxmemory") or memory.get("total_system_memory") or 0)
    for stream, entries, oldest in zip(streams, lengths[::2], lengths[1::2], strict=True):
        metrics.queue.labels(stream).set(entries)
        metrics.queue_age.labels(stream).set(_age_s(oldest, now_s))
    for stream, pending in zip(groups, pendings, strict=True):
        # An emptied Redis knows no consumer group, so nothing is claimed.
        metrics.queue_pending.labels(stream).set(0 if isinstance(pending, Exception) else pending["pending"])


def _age_s(oldest: list[Any], now_s: float) -> float:
    """Seconds since an entry was added: its id begins with that time in milliseconds."""
    return max(0.0, now_s - int(oldest[0][0].split(b"-")[0]) / 1000) if oldest else 0.0
