"""A prompt group that ends the pods that sample it, over a real server: it is found out, and the others are answered.

The workers are real; in place of an engine there is one that dies of the group, which no prompt does at will.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio as aioredis
from xopd_rollout.contract import EngineDiedError
from xopd_rollout.groups import GroupSampler
from xopd_rollout.metrics import ACTIVITIES, RolloutMetrics
from xopd_rollout.worker import REFUSED_AFTER, Worker

from tests.integration.test_dispatch_collect import answer, group
from xopd.config.schema import Config
from xopd.local.embedded_redis import EmbeddedServer
from xopd.service.lifecycle import end_tasks
from xopd.streams import Keys, WorkStream
from xopd.telemetry import NO_TRACER
from xopd.telemetry.clock import ActivityClock
from xopd.v1 import trajectory_pb2 as pb

KEYS = Keys("t")


class MortalSampler(GroupSampler):
    """Answers all groups but `deadly`, of which its pod dies; `company` is what it worked on meanwhile, each time."""

    def __init__(self, metrics: RolloutMetrics, company: list[set[str]]) -> None:
        self.pod_id = "pod"
        self.metrics = metrics
        self.company = company
        self.at_work: set[str] = set()

    async def answer(self, group: pb.PromptGroup) -> pb.TrajectoryGroup:
        self.at_work.add(group.group_id)
        await asyncio.sleep(0.05)
        if "deadly" in self.at_work:
            if group.group_id == "deadly":
                self.company.append(set(self.at_work))
            raise EngineDiedError("the engine's process has ended")
        self.at_work.discard(group.group_id)
        return answer(group)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
async def client(server) -> AsyncIterator[aioredis.Redis]:
    client = aioredis.Redis.from_url(server.url)
    await client.flushall()
    yield client
    await client.aclose()


def new_worker(client: aioredis.Redis, company: list[set[str]]) -> tuple[Worker, RolloutMetrics]:
    config = Config.model_validate(
        {"data": {"manifest": "m"}, "student": {"path": "s"}, "teacher": {"path": "t"}, "redis": {"lease_s": 2.0}}
    )
    metrics = RolloutMetrics(ActivityClock(*ACTIVITIES))
    return Worker(config, client, KEYS, MortalSampler(metrics, company), metrics, NO_TRACER), metrics


async def send(client: aioredis.Redis, *names: str) -> WorkStream:
    prompts = WorkStream(client, KEYS.prompts, "rollout", "trainer")
    await prompts.ensure_group()
    await prompts.add([group(name).SerializeToString() for name in names])
    return prompts


async def answered(client: aioredis.Redis) -> dict[str, str]:
    found = [pb.TrajectoryGroup.FromString(fields[b"p"]) for _, fields in await client.xrange(KEYS.trajectories)]
    return {one.group_id: one.failure.reason for one in found}


async def test_a_group_that_ends_pods_is_refused_and_the_others_are_answered(client):
    others = [f"g{i}" for i in range(5)]
    prompts = await send(client, *others, "deadly")
    company: list[set[str]] = []
    deaths = 0
    while True:
        worker, metrics = new_worker(client, company)
        stop = asyncio.Event()
        working = asyncio.create_task(worker.run(stop))
        while not working.done() and await prompts.length():
            await asyncio.sleep(0.02)
        if not working.done():
            stop.set()
            await working
            break
        with pytest.raises(EngineDiedError):
            await working
        deaths += 1
    assert deaths == REFUSED_AFTER
    assert [len(at_work) for at_work in company] == [6, 6, 1, 1]
    reasons = await answered(client)
    assert set(reasons) == {*others, "deadly"}
    assert reasons["deadly"].startswith("4 pods in a row were lost while they worked on it")
    assert not any(reasons[name] for name in others)
    assert metrics.refused.labels("deadly")._value.get() == 1
    assert await client.xlen(KEYS.dead) == 1


async def test_pods_that_end_in_order_blame_nothing(client, monkeypatch):
    prompts = await send(client, "slow")

    async def _never(_: MortalSampler, __: pb.PromptGroup) -> pb.TrajectoryGroup:
        await asyncio.sleep(600)
        raise AssertionError

    company: list[set[str]] = []
    with monkeypatch.context() as patched:
        patched.setattr(MortalSampler, "answer", _never)
        for _ in range(REFUSED_AFTER + 1):
            worker, _ = new_worker(client, company)
            worker.settings = worker.settings.model_copy(update={"drain_timeout_s": 0.01})
            stop = asyncio.Event()
            working = asyncio.create_task(worker.run(stop))
            while not worker.in_flight:
                await asyncio.sleep(0.02)
            stop.set()
            await working
    worker, _ = new_worker(client, company)
    stop = asyncio.Event()
    working = asyncio.create_task(worker.run(stop))
    while await prompts.length():
        await asyncio.sleep(0.02)
    stop.set()
    await end_tasks([working])
    assert await answered(client) == {"slow": ""}
