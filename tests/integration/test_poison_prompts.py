"""All poison at once, beside good prompts, to one real rollout pod: the good are answered, the bad fail by name."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import save

from tests.clips import FAULTS, sha256_of, speechlike, write_bad_clips
from tests.integration.rollout_pod import PodProcess, StudentWorld, TrainerEnd, make_clip
from xopd.local.embedded_redis import EmbeddedServer
from xopd.v1 import trajectory_pb2 as pb
from xopd.v1 import weights_pb2
from xopd.weights import TensorsInMemory
from xopd.weights.contents import TrainedTensors
from xopd.wire import PROTOCOL, limits

pytestmark = pytest.mark.timeout(300)


class World(StudentWorld):
    """Also a clip that is good."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        super().__init__(folder, server)
        self.clip = make_clip(folder, 1, 16000)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("poison")
    with EmbeddedServer(folder / "redis") as server:
        yield World(folder, server)


@pytest.fixture(scope="module")
def pod(world: World) -> Iterator[PodProcess]:
    process = PodProcess(world.config).until_ready()
    yield process
    process.end()


def metric(pod: PodProcess, series: str) -> float:
    """Value of a series as /metrics writes it."""
    lines = pod.get("/metrics")[1].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{series} "))


def refused(pod: PodProcess, reason: str) -> float:
    return metric(pod, f'xopd_rollout_refused_total{{reason="{reason}"}}')


def write_clip(world: World, tokens: int) -> Path:
    """A clip that takes so many audio tokens."""
    samples = next(n for n in range(0, 480_000, 160) if world.family.audio_tokens(n) == tokens)
    path = world.folder / f"tokens-{tokens}.flac"
    soundfile.write(path, speechlike(samples / 16000, 16000), 16000)
    return path


async def letters(trainer: TrainerEnd) -> list[dict[str, Any]]:
    """The dead letters, oldest first."""
    entries: Any = await trainer.client.xrange(trainer.keys.dead)
    return [{name.decode(): value for name, value in fields.items()} for _, fields in entries]


async def test_all_poison_at_once(world: World, pod: PodProcess, trainer: TrainerEnd) -> None:
    bad: list[tuple[pb.PromptGroup, str, str]] = []  # group, the words of its failure, the metric's reason

    def _spoken(uri: str, sha256: str = "0" * 64, **fields: Any) -> pb.PromptGroup:
        return trainer.group(world.speech_prompt, pb.AudioRef(uri=uri, sha256=sha256), **fields)

    for name, (path, words) in write_bad_clips(world.folder).items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64
        bad.append((_spoken(str(path), digest), words, "audio_" + FAULTS[name.split(".")[0]]))
    bad.append((_spoken(world.clip.uri), "SHA-256", "audio_hash"))
    prompt = len(world.speech_prompt) - 1
    for left, words in ((0, "leaves 0 of 256"), (1, "leaves 1 of 256"), (11, "leaves 11 of 256 .* for 12 new ones")):
        path = write_clip(world, 256 - prompt - left)
        bad.append((_spoken(str(path), sha256_of(path)), words, "prompt_length"))
    short = world.folder / "short.flac"
    soundfile.write(short, speechlike(0.02, 16000), 16000)
    bad.append((_spoken(str(short), sha256_of(short)), "lasts 20.0 ms, which gives no audio token", "audio_length"))
    for uri, words in (
        ("/etc/passwd", "leads to /etc/passwd, outside of"),
        (f"{world.folder}/../../../../../etc/passwd", "leads to /etc/passwd, outside of"),
        ("http://169.254.169.254/latest/meta-data", "has the scheme http"),
        ("s3://bucket/key", "has the scheme s3"),
        ("filecache::file:///etc/passwd", "chain of URIs"),
    ):
        bad.append((_spoken(uri), words, "audio_place"))
    size = world.family.vocabulary.size
    audio_token = world.family.audio_token_id
    bad += [
        (trainer.group([65] * 300), "a prompt of 300 tokens leaves 0 of 256", "prompt_length"),
        (trainer.group([65] * 250), "leaves 6 of 256 .* for 12 new ones", "prompt_length"),
        (trainer.group([65, size]), f"prompt token id {size} lies outside", "prompt_tokens"),
        (trainer.group([65, 2**31 - 1]), "prompt token id 2147483647 lies outside", "prompt_tokens"),
        (trainer.group([65], stop=[size]), "stop token id", "prompt_tokens"),
        (trainer.group([65, audio_token]), "holds 1 audio placeholders; 0 belong", "prompt_tokens"),
        (trainer.group([65], world.clip), "holds 0 audio placeholders; 1 belong", "prompt_tokens"),
        (trainer.group([audio_token] * 2, world.clip), "holds 2 audio placeholders", "prompt_tokens"),
        (trainer.group([]), "has an empty prompt", "message"),
        (trainer.group([-1]), "negative token id", "message"),
        (trainer.group([65], seeds=[1] * 300), "responses asked for are 300", "message"),
        (trainer.group([65], max_new_tokens=10**9), "tokens asked for in a response", "message"),
        (trainer.group([65], temperature=math.inf), "temperature are inf", "message"),
        (trainer.group([65], temperature=math.nan), "negative temperature", "message"),
        (_spoken(world.clip.uri, "../../" + "0" * 58), "hexadecimal", "message"),
        (_spoken("x" * 5000), "characters of its URI", "message"),
    ]
    unknown = trainer.group([65])
    unknown.modality = 9  # type: ignore[assignment]
    bad.append((unknown, "unknown modality 9", "message"))
    good = [trainer.group(world.text_prompt) for _ in range(8)]
    good += [trainer.group(world.speech_prompt, world.clip, seeds=[1, 2]) for _ in range(8)]
    fills = write_clip(world, 256 - prompt - 12)
    good.append(_spoken(str(fills), sha256_of(fills)))
    newer = trainer.group(world.text_prompt)
    newer.protocol = PROTOCOL + 1
    large = trainer.group([2**20] * (limits.MAX_PROMPT_BYTES // 3 + 1))
    strange = [b"\xff\xff no message", b"", b"\x08\x01", newer.SerializeToString(), large.SerializeToString()]

    before = {reason: refused(pod, reason) for _, _, reason in bad}
    # Interleaved: each good group has bad company on both sides.
    mixed = [group for group, _, _ in bad]
    for index, group in enumerate(good):
        mixed.insert(3 * index, group)
    await trainer.prompts.ensure_group()
    await trainer.prompts.add(strange[:2])
    await trainer.send(*mixed[:30])
    await trainer.prompts.add(strange[2:])
    await trainer.client.xadd(trainer.keys.prompts, {"other": "field"})
    await trainer.send(*mixed[30:])

    for group, answer in zip(good, await trainer.answers(*good), strict=True):
        assert len(answer.trajectories) == len(group.seeds)
    for (_, words, reason), answer in zip(bad, await trainer.answers(*(group for group, _, _ in bad)), strict=True):
        assert answer.failure.code == pb.FAILURE_CODE_BAD_ITEM, (reason, answer.failure)
        assert re.search(words, answer.failure.reason), (words, answer.failure.reason)
    async with asyncio.timeout(20):
        while await trainer.prompts.length():
            await asyncio.sleep(0.02)

    dead = await letters(trainer)
    assert len(dead) == len(bad) + len(strange) + 1
    reasons = [letter["reason"].decode() for letter in dead]
    for _, words, _ in bad:
        assert any(re.search(words, reason) for reason in reasons), words
    assert sum("upgrade it" in reason for reason in reasons) == 1
    assert sum("at most 4,194,304 are read" in reason for reason in reasons) == 1
    for letter in dead:
        assert letter["source"] == trainer.keys.prompts.encode() and letter["by"] == pod.pod_id.encode()
        assert len(letter["p"]) <= min(limits.DEAD_LETTER_BYTES, int(letter["bytes"]))
    for reason in before:
        expected = sum(r == reason for _, _, r in bad) + (len(strange) + 1 if reason == "message" else 0)
        assert refused(pod, reason) - before[reason] == expected, reason
    assert pod.process.poll() is None and pod.get("/readyz")[0] == 200


async def test_the_dead_letters_are_bounded(world: World, pod: PodProcess, trainer: TrainerEnd) -> None:
    await trainer.prompts.ensure_group()
    await trainer.prompts.add([b"\xffx" * 9000] * (limits.DEAD_LETTERS_KEPT + 50))
    async with asyncio.timeout(60):
        while await trainer.prompts.length():
            await asyncio.sleep(0.05)
    assert await trainer.client.xlen(trainer.keys.dead) == limits.DEAD_LETTERS_KEPT
    (newest,) = (await letters(trainer))[-1:]
    assert len(newest["p"]) == limits.DEAD_LETTER_BYTES and int(newest["bytes"]) == 18_000


async def test_the_endpoint_follows_the_same_rules(world: World, pod: PodProcess, trainer: TrainerEnd) -> None:
    await trainer.ask(trainer.group(world.text_prompt))
    for body, words in (
        ({"audio": {"uri": "/etc/passwd", "sha256": "0" * 64}}, "outside of"),
        ({"audio": {"uri": "http://169.254.169.254/", "sha256": "0" * 64}}, "scheme http"),
        ({"token_ids": [10**6]}, "outside the vocabulary"),
        ({"token_ids": [65] * 300}, "leaves 0 of 256"),
        ({"token_ids": []}, "is empty"),
        ({"text": "x", "max_new_tokens": 250}, "for 250 new ones"),
    ):
        status, reply = pod.get("/v1/generate", body)
        assert status == 422 and words in str(reply), reply


def spoilt_versions(trained: dict[str, torch.Tensor]) -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    """Tensors of a version that must not be applied, and the words that refuse it."""
    name = next(name for name in trained if name.endswith("q_proj.weight"))
    tensor = trained[name]
    nan = tensor.clone()
    nan[3, 5] = math.nan
    infinite = tensor.clone()
    infinite[0, 0] = -math.inf
    return {
        "nan": ({**trained, name: nan}, f"{re.escape(name)} holds NaN"),
        "infinite": ({**trained, name: infinite}, "holds NaN or infinity"),
        "shape": ({**trained, name: tensor[:-1]}, r"has the shape \[63, 64\], not \[64, 64\]"),
        "dtype": ({**trained, name: tensor.to(torch.bfloat16)}, "is bfloat16, not float32"),
        "missing": ({n: t for n, t in trained.items() if n != name}, f"lacks '{re.escape(name)}'"),
        "extra": (
            {**trained, "language_model.extra": tensor.clone()},
            "holds 'language_model.extra', which is no trained",
        ),
        "traversal": ({**trained, "../../../etc/passwd": tensor.clone()}, "holds '../../../etc/passwd'"),
        "frozen": ({**trained, "audio_tower.conv1.weight": tensor.clone()}, "holds 'audio_tower.conv1.weight'"),
        "nothing": ({}, "lacks"),
    }


def test_every_trained_tensor_is_known_from_the_checkpoint(world: World) -> None:
    expected = TrainedTensors.of(world.family, "float32")
    assert expected.shapes == {name: tuple(tensor.shape) for name, tensor in world.trained().items()}
    expected.check_specs(0, TensorsInMemory(world.trained()).specs)
    assert TrainedTensors.from_plain(expected.as_plain()) == expected


async def test_spoilt_weights_leave_the_old_ones_in_place(world: World, pod: PodProcess, trainer: TrainerEnd) -> None:
    probe = trainer.group(world.text_prompt, temperature=0.0, seeds=[1])
    (before,) = await trainer.ask(probe)
    updates = metric(pod, "xopd_rollout_policy_updates_total")
    already = metric(pod, "xopd_rollout_refused_weight_updates_total")
    version, tried = 0, 0

    async def _refused(words: str) -> None:
        nonlocal tried
        tried += 1
        (answer,) = await trainer.ask(trainer.group(world.text_prompt, version=version))
        assert answer.failure.code == pb.FAILURE_CODE_POLICY_UNAVAILABLE
        assert re.search(words, answer.failure.reason), (words, answer.failure.reason)
        assert f"version 0 of run {trainer.run_id} is held still" in answer.failure.reason

    for tensors, words in spoilt_versions(world.trained()).values():
        version += 1
        await trainer.publish(version, tensors)
        await _refused(words)

    async def _announce(words: str, data: bytes | None = None, **changes: Any) -> None:
        nonlocal version
        version += 1
        await trainer.publish_file(version, good if data is None else data, len(world.trained()), **changes)
        await _refused(words)

    good = save({n: t.contiguous() for n, t in world.trained().items()})
    flipped = bytearray(good)
    flipped[len(flipped) // 2] ^= 1
    await _announce("has SHA-256", bytes(flipped), sha256=hashlib.sha256(good).hexdigest())
    await _announce("tensors, its manifest says 99", tensor_count=99)
    await _announce("is no safetensors file", b"no weights" * 50)
    await _announce("travels by 'pigeon'; this pod knows store", transport="pigeon")
    await _announce("is announced with 1,099,511,627,776 bytes", size_bytes=2**40)
    await _announce("has more bytes, its manifest says 10", size_bytes=10)
    await _announce("outside of", uri="/etc/passwd")
    await _announce("outside of", uri=f"{world.folder}/weights/../student/model.safetensors")
    await _announce("has the scheme http", uri="http://169.254.169.254/weights")
    await _announce("cannot be read", uri=f"{world.folder}/weights/none.safetensors")
    await _announce("cannot be read", uri=f"{world.folder}/weights/nowhere/none.safetensors")

    # Nothing was applied, and the pod serves the version that it has held all the time without a new load.
    assert metric(pod, "xopd_rollout_policy_updates_total") == updates
    assert metric(pod, "xopd_rollout_refused_weight_updates_total") == already + tried
    assert metric(pod, "xopd_rollout_policy_version") == 0
    again = trainer.group(world.text_prompt, temperature=0.0, seeds=[1])
    (after,) = await trainer.ask(again)
    assert list(after.trajectories[0].logprobs) == list(before.trajectories[0].logprobs)
    assert metric(pod, "xopd_rollout_policy_updates_total") == updates
    # A good version after all of them is applied.
    version += 1
    await trainer.publish(version, world.trained())
    (fine,) = await trainer.ask(trainer.group(world.text_prompt, version=version))
    assert set(fine.trajectories[0].policy_versions) == {version}


async def test_announcements_that_are_none(world: World, pod: PodProcess, trainer: TrainerEnd) -> None:
    manifest = await trainer.publish(1, world.trained())
    newer = weights_pb2.WeightManifest()
    newer.CopyFrom(manifest)
    newer.protocol = PROTOCOL + 1
    hostile = weights_pb2.WeightManifest()
    hostile.CopyFrom(manifest)
    hostile.size_bytes = -5
    for data in (b"\xff no manifest", newer.SerializeToString(), hostile.SerializeToString(), b""):
        await trainer.client.xadd(trainer.keys.weights, {b"p": data})
    (answer,) = await trainer.ask(trainer.group(world.text_prompt, version=1))
    assert len(answer.trajectories) == 4
    # What nobody can read is moved away once; what a newer pod may read stays.
    assert {letter["source"] for letter in await letters(trainer)} == {trainer.keys.weights.encode()}
    assert len(await letters(trainer)) == 3
    assert await trainer.client.xlen(trainer.keys.weights) == 3


async def test_a_run_key_that_is_none(world: World, pod: PodProcess, trainer: TrainerEnd) -> None:
    before = refused(pod, "message")
    for version, data in enumerate((b"\xff garbage", b"", b"x" * 100_000), start=1):
        await trainer.client.set(trainer.keys.run, data)
        await trainer.publish(version, world.trained())
        (answer,) = await trainer.ask(trainer.group(world.text_prompt, version=version))
        assert len(answer.trajectories) == 4
    assert refused(pod, "message") >= before + 3
    await trainer.client.delete(trainer.keys.run)
