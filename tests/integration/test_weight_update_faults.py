"""A weight update that fails or hangs within the engine: the trainer gets the engine's own words, in bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.faulty_pod import WORDS
from tests.integration.rollout_pod import PodProcess, StudentWorld, TrainerEnd
from xopd.local.embedded_redis import EmbeddedServer
from xopd.v1 import trajectory_pb2 as pb

pytestmark = pytest.mark.timeout(300)


class Fault:
    """Says what the engine does with the next weights."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, what: str) -> None:
        self.path.write_text(what)

    def end(self) -> None:
        self.path.unlink()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudentWorld]:
    folder = tmp_path_factory.mktemp("updates")
    with EmbeddedServer(folder / "redis") as server:
        yield StudentWorld(folder, server)


@pytest.fixture(scope="module")
def fault(world: StudentWorld) -> Fault:
    return Fault(world.folder / "fault")


@pytest.fixture(scope="module")
def pod(world: StudentWorld, fault: Fault) -> Iterator[PodProcess]:
    process = PodProcess(world.config, module=("tests.integration.faulty_pod", str(fault.path))).until_ready()
    yield process
    process.end()


async def test_an_update_that_fails_is_told_in_the_engines_words_and_the_next_one_is_taken(
    world: StudentWorld, pod: PodProcess, fault: Fault, trainer: TrainerEnd
) -> None:
    engine = [child.pid for child in psutil.Process(pod.process.pid).children()]
    await trainer.ask(trainer.group(world.text_prompt))
    fault.begin("fail")
    for version in (1, 2):
        await trainer.publish(version, world.trained())
        # Both groups that wait for the version get the reason, not the first one alone.
        groups = [trainer.group(world.text_prompt, version=version) for _ in range(2)]
        for answer in await trainer.ask(*groups):
            assert answer.failure.code == pb.FAILURE_CODE_POLICY_UNAVAILABLE
            assert f"weight version {version} was not loaded: " in answer.failure.reason
            assert WORDS in answer.failure.reason
    fault.end()
    # The trainer asks again for the same version: nothing of the failure is left over.
    answers = await trainer.ask(*(trainer.group(world.text_prompt, version=2, temperature=0.0) for _ in range(2)))
    for answer in answers:
        assert {v for t in answer.trajectories for v in t.policy_versions} == {2}
    (expected,) = await trainer.ask(trainer.group(world.text_prompt, version=2, temperature=0.0))
    assert expected.trajectories[0].token_ids == answers[0].trajectories[0].token_ids
    assert [child.pid for child in psutil.Process(pod.process.pid).children()] == engine


async def test_an_update_that_hangs_ends_the_pod_and_its_groups_go_to_another(
    world: StudentWorld, pod: PodProcess, fault: Fault, trainer: TrainerEnd
) -> None:
    """The last test of this file: it ends the pod. Its limit is rollout.update_timeout_s, 3 s here."""
    engine = psutil.Process(pod.process.pid).children()
    fault.begin("hang")
    await trainer.publish(3, world.trained())
    group = trainer.group(world.text_prompt, version=3)
    await trainer.send(group)
    assert pod.process.wait(60) == 1
    assert "the engine did not load version 3 in 3 s" in pod.text()
    assert not psutil.wait_procs(engine, timeout=20)[1], "the engine that hangs lives on"
    fault.end()
    assert await trainer.prompts.length() == 1  # not answered, and not lost
    healthy = PodProcess(world.config, pod_id="pod-b").until_ready()
    try:
        (answer,) = await trainer.answers(group)
        assert answer.pod_id == "pod-b" and len(answer.trajectories) == 4
    finally:
        healthy.end()
