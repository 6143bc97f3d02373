"""Replicas of one teacher that do not score alike: refused at the start and whenever they come, with both addresses."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.integration.hostile_teacher import HostileTeacher
from tests.integration.teacher_process import TeacherProcess
from tests.random_models import make_teacher, make_tokenizer
from xopd.errors import UserError
from xopd.prompts.vocabulary import vocabulary_of
from xopd.scoring import TeacherClient
from xopd.scoring.pods import Pod
from xopd.scoring.replicas import REPLICA_TOLERANCE

STUDENT = vocabulary_of(make_tokenizer())
PROBE = [-1.0, -2.0, -3.0, -4.0]
APART = r"differ from those of {} by {} nats in the mean, 0\.1 is allowed: serve the same checkpoint everywhere"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Three teachers of the name `teacher`: two of one checkpoint, in two number formats, and one of another."""
    folder = tmp_path_factory.mktemp("replicas")
    checkpoints = [make_teacher(folder / str(seed) / "teacher", seed=seed) for seed in (0, 1)]
    processes = [
        TeacherProcess(folder / name, checkpoint, dtype=dtype).start(wait=False)
        for name, checkpoint, dtype in (
            ("one", checkpoints[0], "float32"),
            ("same", checkpoints[0], "bfloat16"),
            ("other", checkpoints[1], "float32"),
        )
    ]
    for process in processes:
        process.wait_ready()
    yield processes
    for process in processes:
        process.stop()


async def told(client: TeacherClient, endpoint: str) -> dict:
    return {pod["endpoint"]: pod for pod in await client.describe()}.get(endpoint, {"ok": False, "problem": ""})


async def test_the_same_checkpoint_in_two_number_formats_is_one_teacher(teachers) -> None:
    one, same, _ = teachers
    async with TeacherClient([one.grpc, same.grpc]) as client:
        await client.verify(STUDENT)
        assert [pod["ok"] for pod in await client.describe()] == [True, True]


async def test_other_weights_of_the_same_name_are_no_teacher(teachers) -> None:
    one, _, other = teachers
    async with TeacherClient([one.grpc, other.grpc]) as client:
        with pytest.raises(UserError, match=APART.format(r"127\.0\.0\.1:\d+", r"\d\.\d+")) as refused:
            await client.verify(STUDENT)
    # Either may have been the first; the figure is many times what rounding could make of one checkpoint.
    assert one.grpc in str(refused.value) and other.grpc in str(refused.value)
    assert float(str(refused.value).split(" nats")[0].split(" by ")[1]) > 10 * REPLICA_TOLERANCE


async def test_one_that_joins_later_is_refused_and_the_run_goes_on(teachers, tmp_path) -> None:
    one, same, other = teachers
    listed = tmp_path / "teachers"
    listed.write_text(f"{one.grpc}\n")
    async with TeacherClient([f"file:{listed}"]) as client:
        await client.verify(STUDENT)
        (expected,) = await client.score([1, 2], [[3, 4]], "r")
        listed.write_text(f"{one.grpc}\n{other.grpc}\n{same.grpc}\n")
        async with asyncio.timeout(30):
            while not (await told(client, same.grpc))["ok"] or not (await told(client, other.grpc))["problem"]:
                await asyncio.sleep(0.05)
        assert f"differ from those of {one.grpc} by" in (await told(client, other.grpc))["problem"]
        # It is asked again and again, and stays out; no request goes there.
        for _ in range(30):
            (score,) = await client.score([1, 2], [[3, 4]], "r")
            assert abs(score.logprobs - expected.logprobs).max() < 0.1
        about = await told(client, other.grpc)
        assert not about["ok"] and about["calls"] == 0
        # What leaves takes nothing with it: the first of the run is what those that come are compared with.
        listed.write_text(f"{same.grpc}\n{other.grpc}\n")
        async with asyncio.timeout(30):
            while (await told(client, one.grpc))["ok"]:
                await asyncio.sleep(0.05)
        await client.score([1, 2], [[3, 4]], "r")
        assert not (await told(client, other.grpc))["ok"]


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ([*PROBE[:3], -4.6], APART.format("{}", r"0\.15")),
        ([-1.2, -1.8, -2.8, -4.2], APART.format("{}", r"0\.2")),  # beyond, though the sums agree
        (PROBE[:3], r"tells 3 log-probabilities of a fixed batch, beside 4 of those of {}: run the same version"),
        ([*PROBE[:3], float("nan")], "nan is among its log-probabilities of a fixed batch"),
        ([*PROBE[:3], float("-inf")], "-inf is among its log-probabilities"),
        ([*PROBE[:3], 0.5], "0.5 is among its log-probabilities"),
    ],
)
async def test_what_cannot_be_a_replica(probe, words, tmp_path) -> None:
    listed = tmp_path / "teachers"
    async with HostileTeacher() as good, HostileTeacher() as bad, TeacherClient([f"file:{listed}"]) as client:
        good.probe, bad.probe = PROBE, probe
        listed.write_text(f"{good.address}\n")
        await client.verify(STUDENT)
        listed.write_text(f"{good.address}\n{bad.address}\n")
        async with asyncio.timeout(20):
            while (await told(client, bad.address))["problem"] in ("", Pod.problem):
                await asyncio.sleep(0.02)
        problem = (await told(client, bad.address))["problem"]
        assert re.search(words.format(re.escape(good.address)), problem), problem
        assert (await told(client, good.address))["ok"]


def nan(_, response):
    response.scores[0].logprobs[0] = float("nan")


async def test_a_pod_that_comes_back_with_other_weights() -> None:
    async with HostileTeacher() as swapped, TeacherClient([swapped.address], retry_limit_s=5.0) as client:
        swapped.probe = PROBE
        await client.verify(STUDENT)
        swapped.probe, swapped.spoil = [-5.0] * 4, nan  # after a bad answer it is asked anew who it is
        with pytest.raises(UserError, match=r"differ from those that it gave before by 2\.5 nats"):
            await client.score([1, 2], [[3]], "r")


async def test_older_teachers_that_tell_nothing_are_passed_over() -> None:
    async with HostileTeacher() as old, HostileTeacher() as new, TeacherClient([old.address, new.address]) as client:
        new.probe = PROBE
        await client.verify(STUDENT)
        assert [pod["ok"] for pod in await client.describe()] == [True, True]
        # The first that tells something is what later ones are compared with, whoever was admitted first.
        old.probe, old.spoil = [-5.0] * 4, nan
        async with asyncio.timeout(20):
            while f"differ from those of {new.address} by 2.5 nats" not in (await told(client, old.address))["problem"]:
                await client.score([1, 2], [[3]], "r")


@pytest.mark.parametrize("probe", [PROBE, [-1.1, -1.9, -3.1, -3.9], [0.0005, -2.0, -3.0, -4.0 + 0.3], []])
async def test_what_may_be_a_replica(probe) -> None:
    async with (
        HostileTeacher() as good,
        HostileTeacher() as also,
        TeacherClient([good.address, also.address]) as client,
    ):
        good.probe, also.probe = [0.0, -2.0, -3.0, -4.0] if probe and probe[0] > -0.5 else PROBE, probe
        await client.verify(STUDENT)
        assert [pod["ok"] for pod in await client.describe()] == [True, True]
