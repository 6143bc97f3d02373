"""A real rollout pod (vLLM, random tiny student) against a real Valkey."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis.asyncio as aioredis
import torch

from tests.clips import rules
from tests.integration.rollout_pod import START_S, PodProcess, StudentWorld, TrainerEnd, make_clip
from xopd.data.audio import fetch_audio
from xopd.families.tensors import load_hub_state
from xopd.local.embedded_redis import EmbeddedServer
from xopd.v1 import trajectory_pb2 as pb
from xopd.v1 import weights_pb2
from xopd.wire import PROTOCOL, decode

PARITY = 1e-4
pytestmark = pytest.mark.timeout(300)


class World(StudentWorld):
    """What the tests of this file share: also clips, and what transformers says of their responses."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        super().__init__(folder, server)
        self.clips = [make_clip(folder, seed, 16000 + 5000 * seed) for seed in range(4)]

    def moved(self, seed: int) -> dict[str, torch.Tensor]:
        """Other values of the same tensors."""
        noise = torch.Generator().manual_seed(seed)
        return {n: t + 0.05 * torch.randn(t.shape, generator=noise) for n, t in self.trained().items()}

    @torch.no_grad()
    def reference(
        self, prompt: Sequence[int], tokens: Sequence[int], clip: pb.AudioRef | None, tensors: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """log pi(y_t | x, y_<t) by plain transformers, shape [tokens]."""
        before = self.trained()
        load_hub_state(self.family, self.policy, tensors.items())
        inputs: dict[str, Any] = {"input_ids": torch.tensor([list(prompt)])}
        if clip is not None:
            wave = fetch_audio(clip.uri, clip.sha256, self.family.sample_rate, rules(self.folder))
            text = self.family.tokenizer.decode(prompt)
            inputs = dict(self.family.processor(text=text, audio=[wave], sampling_rate=16000, return_tensors="pt"))
        length = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([list(tokens)])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        logits = self.policy(**inputs).logits[0, length - 1 : -1]
        load_hub_state(self.family, self.policy, before.items())
        return torch.log_softmax(logits, -1)[torch.arange(len(tokens)), torch.tensor(list(tokens))]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rollout")
    with EmbeddedServer(folder / "redis") as server:
        yield World(folder, server)


@pytest.fixture(scope="module")
def pod(world: World) -> Iterator[PodProcess]:
    # On every interface, as in a container: its heartbeat must name an address that others can use.
    process = PodProcess(world.config, "rollout.host=0.0.0.0", insecure=True).until_ready()
    yield process
    process.end()


async def _until_claimed(client: aioredis.Redis, trainer: TrainerEnd) -> None:
    async with asyncio.timeout(20):
        while not (await client.xpending(trainer.keys.prompts, "rollout"))["pending"]:
            await asyncio.sleep(0)


def _check(world: World, answer: pb.TrajectoryGroup, group: pb.PromptGroup, tensors: dict[str, torch.Tensor]) -> float:
    clip = group.audio if group.HasField("audio") else None
    worst = 0.0
    for trajectory in answer.trajectories:
        expected = world.reference(group.prompt_token_ids, trajectory.token_ids, clip, tensors)
        worst = max(worst, float((expected - torch.tensor(list(trajectory.logprobs))).abs().max()))
    return worst


async def test_groups_come_back_whole(world: World, pod: PodProcess, trainer: TrainerEnd) -> None:
    text = trainer.group(world.text_prompt, seeds=[5, 6, 7], step=3, traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")
    speech = trainer.group(world.speech_prompt, world.clips[0], seeds=[5, 6])
    for group, answer in zip((text, speech), await trainer.ask(text, speech), strict=True):
        assert not answer.HasField("failure"), answer.failure
        for field in ("run_id", "group_id", "item_id", "modality", "purpose", "step", "attempt", "traceparent"):
            assert getattr(answer, field) == getattr(group, field)
        assert answer.pod_id == pod.pod_id and answer.finished_at >= answer.started_at
        assert [t.seed for t in answer.trajectories] == list(group.seeds)
        assert [t.index for t in answer.trajectories] == list(range(len(group.seeds)))
        for trajectory in answer.trajectories:
            assert set(trajectory.policy_versions) == {0}
            ended = trajectory.token_ids[-1] == 258
            assert (trajectory.finish_reason == pb.FINISH_REASON_STOP) == ended
            assert ended or len(trajectory.token_ids) == 12
            assert 258 not in trajectory.token_ids[:-1]
    assert await trainer.prompts.length() == 0


async def test_logprobs_equal_transformers_before_and_after_an_update(
    world: World, pod: PodProcess, trainer: TrainerEnd
) -> None:
    versions = [world.trained(), world.moved(1), world.moved(2)]
    for version, tensors in enumerate(versions):
        if version:
            await trainer.publish(version, tensors)
        text = trainer.group(world.text_prompt, version=version)
        speech = [trainer.group(world.speech_prompt, clip, version=version) for clip in world.clips]
        for group, answer in zip((text, *speech), await trainer.ask(text, *speech), strict=True):
            assert {v for t in answer.trajectories for v in t.policy_versions} == {version}
            assert _check(world, answer, group, tensors) <= PARITY
    # The weights did move: the last answers are not those of the first version.
    assert _check(world, answer, group, versions[0]) > 0.01


async def test_same_seed_same_tokens_and_greedy_is_the_argmax(
    world: World, pod: PodProcess, trainer: TrainerEnd
) -> None:
    sampled = [trainer.group(world.speech_prompt, world.clips[1], seeds=[11, 12]) for _ in range(2)]
    greedy = [trainer.group(world.text_prompt, temperature=0.0, seeds=[1, 2]) for _ in range(2)]
    answers = [[list(t.token_ids) for t in a.trajectories] for a in await trainer.ask(*sampled, *greedy)]
    assert answers[0] == answers[1]
    assert answers[0][0] != answers[0][1]
    assert answers[2] == answers[3] and answers[2][0] == answers[2][1]


async def test_a_version_may_fall_and_another_run_is_another_policy(
    world: World, pod: PodProcess, trainer: TrainerEnd, client: aioredis.Redis
) -> None:
    await trainer.publish(4, world.moved(4))
    await trainer.ask(trainer.group(world.text_prompt, version=4))
    resumed = TrainerEnd(client, world.folder / "weights", trainer.run_id + "-again")
    await resumed.publish(2, world.moved(9))
    group = resumed.group(world.speech_prompt, world.clips[2], version=2)
    (answer,) = await resumed.ask(group)
    assert set(answer.trajectories[0].policy_versions) == {2}
    assert _check(world, answer, group, world.moved(9)) <= PARITY


async def test_bad_items_fail_and_the_pod_lives_on(world: World, pod: PodProcess, trainer: TrainerEnd) -> None:
    missing = trainer.group(world.speech_prompt, pb.AudioRef(uri=str(world.folder / "none.flac"), sha256="0" * 64))
    wrong = trainer.group(world.speech_prompt, pb.AudioRef(uri=world.clips[0].uri, sha256="0" * 64))
    too_long = trainer.group([65] * 300)
    good = trainer.group(world.speech_prompt, world.clips[3])
    answers = await trainer.ask(missing, wrong, too_long, good)
    assert [a.failure.code for a in answers[:3]] == [pb.FAILURE_CODE_BAD_ITEM] * 3
    assert "none.flac" in answers[0].failure.reason and "SHA-256" in answers[1].failure.reason
    assert len(answers[3].trajectories) == 4


async def test_versions_that_cannot_be_had(
    world: World, pod: PodProcess, trainer: TrainerEnd, client: aioredis.Redis
) -> None:
    await trainer.publish(5, world.moved(5))
    manifest = await trainer.publish(6, world.moved(6))
    trainer.sender.filesystem.pipe_file(manifest.uri, b"torn")
    never = trainer.group(world.text_prompt, version=9)
    gone = trainer.group(world.text_prompt, version=3)
    torn = trainer.group(world.text_prompt, version=6)
    fine = trainer.group(world.text_prompt, version=5)
    answers = await trainer.ask(never, gone, torn, fine)
    assert [a.failure.code for a in answers[:3]] == [pb.FAILURE_CODE_POLICY_UNAVAILABLE] * 3
    assert "has 4 bytes, its manifest says" in answers[2].failure.reason
    assert _check(world, answers[3], fine, world.moved(5)) <= PARITY
    run = weights_pb2.RunInfo(protocol=PROTOCOL, run_id="another run")
    await client.set(trainer.keys.run, run.SerializeToString())
    late = TrainerEnd(client, world.folder / "weights", "an-earlier-run")
    (answer,) = await late.ask(late.group(world.text_prompt))
    assert answer.failure.code == pb.FAILURE_CODE_POLICY_UNAVAILABLE and "another run" in answer.failure.reason


async def test_entries_that_cannot_be_read_go_to_the_dead(
    world: World, pod: PodProcess, trainer: TrainerEnd, client: aioredis.Redis
) -> None:
    newer = trainer.group(world.text_prompt)
    newer.protocol = PROTOCOL + 1
    await trainer.prompts.add([b"\xff\xff no protobuf", newer.SerializeToString()])
    await trainer.ask(trainer.group(world.text_prompt))
    reasons = [fields[b"reason"].decode() for _, fields in await client.xrange(trainer.keys.dead)]
    assert len(reasons) == 2 and "upgrade" in reasons[1]
    assert await trainer.prompts.length() == 0


async def test_endpoints(world: World, pod: PodProcess, trainer: TrainerEnd, client: aioredis.Redis) -> None:
    await trainer.ask(trainer.group(world.text_prompt), trainer.group(world.speech_prompt, world.clips[0]))
    assert pod.get("/healthz")[0] == pod.get("/readyz")[0] == 200
    assert pod.get("/version")[1]["engine"] == "vllm"
    assert "/v1/generate" in pod.get("/openapi.json")[1]["paths"]
    clip = {"uri": world.clips[0].uri, "sha256": world.clips[0].sha256}
    for body in ({"text": "hello"}, {"token_ids": list(world.text_prompt)}, {"audio": clip, "question": "how loud"}):
        status, reply = pod.get("/v1/generate", {**body, "n": 2, "max_new_tokens": 5})
        assert status == 200 and len(reply["responses"]) == 2
        assert len(reply["responses"][0]["logprobs"]) == len(reply["responses"][0]["policy_versions"])
    assert pod.get("/v1/generate", {"audio": {**clip, "sha256": "0" * 64}})[0] == 422
    assert pod.get("/v1/generate", {"text": "a", "token_ids": [1]})[0] == 422
    metrics = pod.get("/metrics")[1]
    assert 'xopd_rollout_generated_tokens_total{modality="speech",purpose="train"}' in metrics
    assert "xopd_rollout_policy_version 0.0" in metrics
    status = decode(weights_pb2.PodStatus, await client.get(trainer.keys.pod(pod.pod_id)))
    assert status.engine == "vllm" and status.generated_tokens > 0 and status.url.startswith("http://127.0.0.1:")
    lately = status.recent
    assert 0 < lately.generated_tokens <= status.generated_tokens
    assert 0 < lately.busy_seconds <= lately.seconds
    assert lately.busy_seconds + lately.sync_seconds + lately.idle_seconds == pytest.approx(lately.seconds, rel=0.2)
    assert 0 < await client.pttl(trainer.keys.pod(pod.pod_id)) <= 1500


async def test_redis_comes_back_empty(world: World, pod: PodProcess, trainer: TrainerEnd) -> None:
    engine = [child.pid for child in psutil.Process(pod.process.pid).children()]
    world.server.kill()
    for leftover in world.server.folder.glob("appendonlydir/*"):
        leftover.unlink()
    world.server.start()
    await trainer.publish(0, world.trained())
    (answer,) = await trainer.ask(trainer.group(world.text_prompt))
    assert len(answer.trajectories) == 4
    assert [child.pid for child in psutil.Process(pod.process.pid).children()] == engine


async def test_waveforms_give_the_same_logprobs_and_a_killed_pod_is_replaced(
    world: World, pod: PodProcess, trainer: TrainerEnd, client: aioredis.Redis
) -> None:
    second = PodProcess(world.config, "student.audio_input=waveform", pod_id="pod-b").until_ready()
    # While the first sleeps, the second gets everything.
    engine = psutil.Process(pod.process.pid).children()
    pod.process.send_signal(signal.SIGSTOP)
    try:
        groups = [trainer.group(world.speech_prompt, clip, temperature=0.0) for clip in world.clips]
        for group, answer in zip(groups, await trainer.ask(*groups), strict=True):
            assert answer.pod_id == "pod-b"
            assert _check(world, answer, group, world.trained()) <= PARITY
    finally:
        pod.process.send_signal(signal.SIGCONT)
    # The second is killed with claims in its hands; the first takes them over.
    pod.process.send_signal(signal.SIGSTOP)
    children = psutil.Process(second.process.pid).children()
    work = [trainer.group(world.text_prompt, max_new_tokens=200, stop=[], seeds=range(16)) for _ in range(40)]
    await trainer.send(*work)
    await _until_claimed(client, trainer)
    os.kill(second.process.pid, signal.SIGKILL)
    second.process.wait()
    pod.process.send_signal(signal.SIGCONT)
    answers = await trainer.answers(*work)
    assert {a.pod_id for a in answers} >= {pod.pod_id}
    assert all(len(a.trajectories) == 16 for a in answers)
    assert not psutil.wait_procs(children, timeout=10)[1], "the dead pod's engine lives on"
    assert all(child.is_running() for child in engine)


async def test_sigterm_drains(world: World, trainer: TrainerEnd, client: aioredis.Redis, pod: PodProcess) -> None:
    """The last test of this file: it ends the pod."""
    work = [trainer.group(world.text_prompt, max_new_tokens=200, stop=[], seeds=range(8)) for _ in range(24)]
    await trainer.send(*work)
    await _until_claimed(client, trainer)
    assert pod.end() == 0
    claimed = (await client.xpending(trainer.keys.prompts, "rollout"))["pending"]
    assert claimed == 0, "a drained pod holds no claims"
    assert await client.get(trainer.keys.pod(pod.pod_id)) is None
    answered = 24 - await trainer.prompts.length()
    assert answered > 0
    assert "draining" in pod.text()


async def test_a_pod_that_cannot_see_the_weight_store_ends_with_a_sentence(
    world: World, trainer: TrainerEnd, client: aioredis.Redis
) -> None:
    await client.delete(trainer.keys.prompts)
    elsewhere = TrainerEnd(client, world.folder / "not-mounted", "run-elsewhere")
    await elsewhere.publish(0, world.trained())
    shutil.rmtree(world.folder / "not-mounted")
    await elsewhere.send(elsewhere.group(world.text_prompt))
    blind = PodProcess(world.config, f"weights.uri={world.folder / 'not-mounted'}", pod_id="pod-d")
    assert blind.process.wait(START_S) == 2
    last = blind.text().splitlines()[-1]
    assert last.startswith(f"xopd: weights.uri: {world.folder / 'not-mounted'}, where the trainer writes")
    assert "mount the same volume" in last
    assert await elsewhere.prompts.length() == 1  # given back, for a pod that can


async def test_another_vocabulary_is_refused(world: World, client: aioredis.Redis) -> None:
    run = weights_pb2.RunInfo(
        protocol=PROTOCOL, run_id="r", run_name="theirs", student="elsewhere", vocabulary_fingerprint="f" * 64
    )
    await client.set("xopd:run", run.SerializeToString())
    stranger = PodProcess(world.config, pod_id="pod-c")
    assert stranger.process.wait(START_S) == 2
    assert "vocabulary" in stranger.text() and "theirs" in stranger.text()
    assert "Traceback" not in stranger.text()
