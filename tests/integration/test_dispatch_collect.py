"""Dispatcher and collector over a real server: duplicates, stale answers, failures, and an emptied Redis."""

import asyncio
import time
from pathlib import Path

import pytest
import redis.asyncio as aioredis
import torch
from xopd_trainer.dispatch import collector as collector_module
from xopd_trainer.dispatch.collector import Collector
from xopd_trainer.dispatch.dispatcher import Dispatcher, GroupFailedError, PolicyMissingError
from xopd_trainer.dispatch.watch import watch
from xopd_trainer.state import publisher as publisher_module
from xopd_trainer.state.lease import TrainerLease
from xopd_trainer.state.publisher import Publisher

from xopd.errors import UserError
from xopd.ledger import Ledger
from xopd.local.embedded_redis import EmbeddedServer
from xopd.service.lifecycle import end_tasks
from xopd.streams import DeadLetters, Keys, WorkStream
from xopd.streams.retry import RetryPolicy
from xopd.v1 import trajectory_pb2 as pb
from xopd.v1 import weights_pb2
from xopd.weights import TensorsInMemory
from xopd.weights.store import StoreSender

KEYS = Keys("t")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
async def system(server, tmp_path):
    """(dispatcher, collector, ledger, pod): the pod is a plain consumer that the test answers with."""
    client = aioredis.Redis.from_url(server.url)
    await client.flushall()
    prompts = WorkStream(client, KEYS.prompts, "rollout", "trainer")
    trajectories = WorkStream(client, KEYS.trajectories, "trainer", "run-1")
    await prompts.ensure_group()
    await trajectories.ensure_group()
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.begin_life("run-1", 0)
    dispatcher = Dispatcher(prompts, ledger, redispatch_after_s=0.2, max_attempts=3, retry_policy=RetryPolicy(20.0))
    dead = DeadLetters(client, KEYS.dead, "run-1")
    collector = Collector(trajectories, dispatcher, ledger, "run-1", vocabulary_size=100, dead=dead)
    task = asyncio.create_task(collector.run())
    yield dispatcher, collector, ledger, WorkStream(client, KEYS.prompts, "rollout", "pod")
    await end_tasks([task])
    ledger.close()
    await client.aclose()


def group(name="g1", seeds=(1, 2), version=4):
    return pb.PromptGroup(
        protocol=1, run_id="run-1", group_id=name, item_id="i", modality=pb.MODALITY_TEXT, purpose=pb.PURPOSE_TRAIN,
        step=5, prompt_token_ids=[1, 2], seeds=seeds, sampling=pb.Sampling(temperature=1, max_new_tokens=4),
        min_policy_version=version, max_policy_version=version,
    )  # fmt: skip


def answer(to, run_id=None):
    rows = [
        pb.Trajectory(
            index=i, seed=seed, token_ids=[3, 7], logprobs=[-0.5, -0.25],
            policy_versions=[to.min_policy_version] * 2,
            finish_reason=pb.FINISH_REASON_STOP,
        )
        for i, seed in enumerate(to.seeds)
    ]  # fmt: skip
    return pb.TrajectoryGroup(
        protocol=1, run_id=run_id or to.run_id, group_id=to.group_id, item_id=to.item_id, modality=to.modality,
        purpose=to.purpose, step=to.step, attempt=to.attempt, pod_id="pod", trajectories=rows,
    )  # fmt: skip


def publisher_of(pod, sender, policy=None, **hooks):
    async def _send(version, sender):
        return sender.send(version, TensorsInMemory({"weight": torch.arange(64.0)} if policy is None else policy))

    lease = TrainerLease(pod.client, KEYS, "run-1", 5.0)
    return Publisher(lease, sender, weights_pb2.RunInfo(protocol=1, run_id="run-1"), _send, RetryPolicy(20.0), **hooks)


async def claim(pod):
    for _ in range(100):
        claims = await pod.read(1, 100)
        if claims:
            return claims[0].entry_id, pb.PromptGroup.FromString(claims[0].data)
    raise AssertionError("no prompt came")


async def test_an_answer_resolves_and_is_held_until_acknowledged(system):
    dispatcher, collector, ledger, pod = system
    futures = await dispatcher.submit([group()])
    entry, asked = await claim(pod)
    await pod.answer(entry, KEYS.trajectories, answer(asked).SerializeToString())
    found = await asyncio.wait_for(futures["g1"], 5)
    assert [t.seed for t in found.trajectories] == [1, 2]
    assert await pod.length() == 0
    assert await collector.trajectories.length() == 1
    await collector.acknowledge_held()
    assert await collector.trajectories.length() == 0
    assert ledger.accounts.duplicates_dropped == ledger.accounts.stale_dropped == 0


async def test_duplicates_and_strangers_are_dropped(system):
    dispatcher, collector, ledger, pod = system
    futures = await dispatcher.submit([group()])
    entry, asked = await claim(pod)
    await pod.client.xadd(KEYS.trajectories, {"p": answer(asked, run_id="an-earlier-life").SerializeToString()})
    await pod.client.xadd(KEYS.trajectories, {"p": b"\xff not ours"})
    await pod.client.xadd(KEYS.trajectories, {"other": b"field"})
    await pod.answer(entry, KEYS.trajectories, answer(asked).SerializeToString())
    await pod.client.xadd(KEYS.trajectories, {"p": answer(asked).SerializeToString()})
    await asyncio.wait_for(futures["g1"], 5)
    while await collector.trajectories.length() > 1:  # all but the accepted one
        await asyncio.sleep(0.02)
    assert ledger.accounts.duplicates_dropped == 2
    assert ledger.accounts.stale_dropped == 2


def spoil_tokens(answered: pb.TrajectoryGroup) -> None:
    for field, value in (("token_ids", 7), ("logprobs", -1.0), ("policy_versions", 4)):
        getattr(answered.trajectories[0], field).extend([value] * 3)  # five, where four were allowed


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda a: [t.policy_versions.__setitem__(0, 3) for t in a.trajectories], "sampled from policy version 3"),
        (lambda a: a.trajectories[1].token_ids.__setitem__(1, 100), "token id 100 lies outside the vocabulary of 100"),
        (lambda a: setattr(a, "item_id", "another"), "its item_id is another, i was asked"),
        (lambda a: setattr(a, "modality", pb.MODALITY_SPEECH), "its modality is 2, 1 was asked"),
        (lambda a: setattr(a, "step", 6), "its step is 6, 5 was asked"),
        (lambda a: setattr(a.trajectories[1], "seed", 9), "2 trajectories came for 2 seeds"),
        (lambda a: a.trajectories.pop(), "1 trajectories came for 2 seeds"),
        (spoil_tokens, "5 tokens came, 4 were allowed"),
    ],
)
async def test_an_answer_that_was_not_asked_for_is_asked_again(system, spoil, words):
    dispatcher, _, ledger, pod = system
    futures = await dispatcher.submit([group()])
    entry, asked = await claim(pod)
    spoilt = answer(asked)
    spoil(spoilt)
    await pod.answer(entry, KEYS.trajectories, spoilt.SerializeToString())
    entry, again = await claim(pod)
    assert (again.group_id, again.attempt) == ("g1", 1)
    await pod.answer(entry, KEYS.trajectories, answer(again).SerializeToString())
    await asyncio.wait_for(futures["g1"], 5)
    assert ledger.accounts.stale_dropped == len(spoilt.trajectories)
    [reason] = ledger._database.execute("SELECT reason FROM drops").fetchone()
    assert words in reason


async def test_failures(system):
    dispatcher, _, _, pod = system
    futures = await dispatcher.submit([group("bad"), group("flaky")])
    for _ in range(4):
        entry, asked = await claim(pod)
        code = pb.FAILURE_CODE_BAD_ITEM if asked.group_id == "bad" else pb.FAILURE_CODE_ENGINE
        failed = answer(asked)
        del failed.trajectories[:]
        failed.failure.code, failed.failure.reason = code, "broken"
        await pod.answer(entry, KEYS.trajectories, failed.SerializeToString())
    with pytest.raises(GroupFailedError, match="broken"):
        await asyncio.wait_for(futures["bad"], 5)
    with pytest.raises(GroupFailedError, match="after 3 attempts"):
        await asyncio.wait_for(futures["flaky"], 5)


def unavailable(asked: pb.PromptGroup) -> bytes:
    failed = answer(asked)
    del failed.trajectories[:]
    failed.failure.code, failed.failure.reason = pb.FAILURE_CODE_POLICY_UNAVAILABLE, "has SHA-256 0123"
    return failed.SerializeToString()


async def test_a_version_that_no_pod_can_have_is_asked_for_ever_more_slowly_and_says_nothing_of_the_item(
    system, monkeypatch
):
    monkeypatch.setattr(collector_module, "PAUSE_S", 0.5)
    dispatcher, _, ledger, pod = system
    dispatcher.redispatch_after_s = 0.05  # a pause is no silence
    futures = await dispatcher.submit([group()])
    asked_at = []
    for attempt in range(3):
        claiming = asyncio.create_task(claim(pod))
        while not claiming.done():
            await asyncio.sleep(0.01)
            if attempt == 2:
                await dispatcher.retry_due()
        entry, asked = claiming.result()
        asked_at.append(time.monotonic())
        assert asked.attempt == attempt
        await pod.answer(entry, KEYS.trajectories, unavailable(asked))
    assert asked_at[2] - asked_at[1] >= 0.45
    assert ledger.accounts.redispatched == 2
    with pytest.raises(PolicyMissingError, match=r"SHA-256 0123.*after 3 attempts"):
        await asyncio.wait_for(futures["g1"], 5)


async def test_responses_of_a_group_that_pauses_are_booked_when_it_is_sent(system):
    dispatcher, _, ledger, _ = system
    await dispatcher.submit([group()])
    await dispatcher.retry("g1", "stale", "too old", responses=2, pause_s=0.01)
    await asyncio.sleep(0.02)
    assert (ledger.accounts.redispatched, ledger.accounts.stale_dropped) == (0, 0)
    await dispatcher.retry_due()
    assert (ledger.accounts.redispatched, ledger.accounts.stale_dropped) == (1, 2)


async def test_a_damaged_version_is_written_again_before_the_group_is(system, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(publisher_module, "MEND_EVERY_S", 0.0)
    monkeypatch.setattr(collector_module, "PAUSE_S", 0.0)
    dispatcher, collector, _, pod = system
    store = StoreSender(str(tmp_path / "weights"), "run-1", 2)
    policy = {"weight": torch.arange(64.0)}
    mended: list[int] = []
    publisher = publisher_of(pod, store, policy, on_mended=mended.append)
    collector.on_policy_unavailable = publisher.mend
    await publisher.publish(4)
    [path] = (tmp_path / "weights").glob("*.safetensors")
    whole = path.read_bytes()
    futures = await dispatcher.submit([group()])

    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    entry, asked = await claim(pod)
    await pod.answer(entry, KEYS.trajectories, unavailable(asked))
    entry, again = await claim(pod)
    assert (again.attempt, path.read_bytes(), mended) == (1, whole, [4])
    path.unlink()
    await pod.answer(entry, KEYS.trajectories, unavailable(again))
    entry, again = await claim(pod)
    assert (again.attempt, path.read_bytes(), mended) == (2, whole, [4, 4])
    await pod.answer(entry, KEYS.trajectories, answer(again).SerializeToString())
    await asyncio.wait_for(futures["g1"], 5)
    # Another version is looked at at once, however soon it follows.
    monkeypatch.setattr(publisher_module, "MEND_EVERY_S", 3600.0)
    path.unlink()
    await publisher.mend()
    assert not path.exists()
    await publisher.publish(5)
    [path] = (tmp_path / "weights").glob("*-v00000005.safetensors")
    path.unlink()
    await publisher.mend()
    assert path.exists()
    monkeypatch.setattr(publisher_module, "MEND_EVERY_S", 0.0)
    # A policy that has moved on must not be written under an old version's name.
    path.unlink()
    policy["weight"] += 1.0
    await publisher.mend()
    assert not path.exists()
    assert mended == [4, 4, 5]


async def test_a_whole_version_is_announced_again_and_not_written(system, tmp_path: Path):
    _, _, _, pod = system
    store = StoreSender(str(tmp_path / "weights"), "run-1", 2)
    publisher = publisher_of(pod, store)
    await publisher.publish(4)
    await pod.client.delete(KEYS.weights)
    for _ in range(8):  # the groups of a step miss it at once
        await publisher.mend()
    assert publisher.published_bytes == (await publisher.announcements.find("run-1", 4, 4)).size_bytes
    assert await pod.client.xlen(KEYS.weights) == 1


async def test_redis_that_comes_back_empty_costs_nothing(system, tmp_path: Path):
    dispatcher, _, _, pod = system
    publisher = publisher_of(pod, StoreSender(str(tmp_path), "run-1", 2))
    await publisher.announce_run()
    await publisher.publish(4)
    dispatcher.redispatch_after_s = 60.0
    futures = await dispatcher.submit([group()])
    await pod.client.flushall()
    guard = asyncio.create_task(watch(dispatcher, publisher, 60.0))
    entry, asked = await claim(pod)
    assert asked.attempt == 1
    assert (await publisher.announcements.find("run-1", 4, 4)).version == 4
    await pod.answer(entry, KEYS.trajectories, answer(asked).SerializeToString())
    await asyncio.wait_for(futures["g1"], 5)
    await end_tasks([guard])


async def test_a_silence_ends_the_run_with_a_sentence(system, tmp_path: Path):
    dispatcher, _, _, pod = system
    publisher = publisher_of(pod, StoreSender(str(tmp_path), "run-1", 2))
    await dispatcher.submit([group()])
    with pytest.raises(UserError, match="no trajectory has arrived"):
        await asyncio.wait_for(watch(dispatcher, publisher, 0.5), 20)
