"""The trainer's gauges of the queues, over a real server: depth, age, what is claimed, and an emptied or dead Redis."""

import asyncio

import pytest
import redis.asyncio as aioredis
from xopd_trainer.telemetry.metrics import TrainerMetrics
from xopd_trainer.telemetry.redis_gauges import keep_gauges, read_gauges

from xopd.ledger import Ledger, TrainedGroup
from xopd.local.embedded_redis import EmbeddedServer
from xopd.service.lifecycle import end_tasks
from xopd.streams import Keys, WorkStream
from xopd.streams.keys import ROLLOUT_GROUP

KEYS = Keys("t")


@pytest.fixture
async def client(tmp_path):
    with EmbeddedServer(tmp_path) as server:
        client = aioredis.Redis.from_url(server.url)
        yield client
        await client.aclose()


@pytest.fixture
def metrics():
    return TrainerMetrics()


def value(metrics, name, stream=None):
    return metrics.registry.get_sample_value(f"xopd_trainer_{name}", {"stream": stream} if stream else {})


async def test_depth_claims_and_age(client, metrics):
    prompts = WorkStream(client, KEYS.prompts, ROLLOUT_GROUP, "pod")
    await prompts.ensure_group()
    seconds, _ = await client.time()
    await client.xadd(KEYS.prompts, {b"p": b"old"}, id=f"{(seconds - 40) * 1000}-0")
    await prompts.add([b"new", b"newer"])
    [claim] = await prompts.read(1, 10)
    await client.xadd(KEYS.dead, {b"p": b"bad"})

    await read_gauges(client, KEYS, metrics)
    assert value(metrics, "stream_entries", "prompts") == 3
    assert value(metrics, "stream_pending_entries", "prompts") == 1
    assert 40 <= value(metrics, "stream_oldest_age_seconds", "prompts") < 60
    assert value(metrics, "stream_entries", "dead") == 1
    assert value(metrics, "redis_used_memory_bytes") > 100_000
    assert value(metrics, "redis_max_memory_bytes") > value(metrics, "redis_used_memory_bytes")

    await prompts.acknowledge([claim.entry_id])
    await read_gauges(client, KEYS, metrics)
    assert value(metrics, "stream_entries", "prompts") == 2
    assert value(metrics, "stream_pending_entries", "prompts") == 0
    assert value(metrics, "stream_oldest_age_seconds", "prompts") < 20


async def test_an_emptied_redis_has_empty_queues(client, metrics):
    await read_gauges(client, KEYS, metrics)
    for stream in ("prompts", "trajectories"):
        for name in ("stream_entries", "stream_pending_entries", "stream_oldest_age_seconds"):
            assert value(metrics, name, stream) == 0


async def test_a_dead_redis_is_shown_and_ends_nothing(metrics, tmp_path):
    server = EmbeddedServer(tmp_path).start()
    client = aioredis.Redis.from_url(server.url)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.begin_life("life", 0)
    ledger.dispatched(1, {"a": 5})
    ledger.trained(1, [TrainedGroup("a", b"content", 5, True)], 0)
    task = asyncio.create_task(keep_gauges(client, KEYS, metrics, ledger))
    while value(metrics, "redis_up") != 1:
        await asyncio.sleep(0.05)
    server.kill()
    while value(metrics, "redis_up") != 0:
        await asyncio.sleep(0.05)
    assert not task.done()
    assert metrics.registry.get_sample_value("xopd_trainer_trajectories", {"outcome": "trained"}) == 5
    await end_tasks([task])
    ledger.close()
    await client.aclose()
