"""A real teacher process and the real client: exact scores, streams, rejections, and the endpoints around them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from safetensors.torch import load_file, save_file

from tests.integration.teacher_process import TeacherProcess, ragged
from tests.random_models import make_teacher, make_tokenizer
from xopd.errors import UserError
from xopd.prompts.vocabulary import vocabulary_of
from xopd.scoring import ScoringError, TeacherClient, TeacherUnreachableError
from xopd.scoring.client import MOST_BAD_ANSWERS
from xopd.v1 import teacher_pb2 as pb
from xopd.v1 import teacher_pb2_grpc

NAN_TOKEN = 33
"""Not among the tokens of the check at start-up, which would find it."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, checkpoint):
    process = TeacherProcess(tmp_path_factory.mktemp("teacher"), checkpoint, max_top_k=16, max_responses=8)
    yield process.start()
    process.stop()


@pytest.fixture
async def client(teacher):
    async with TeacherClient([teacher.grpc], retry_limit_s=20.0) as opened:
        yield opened


@pytest.fixture
async def stub(teacher):
    async with grpc.aio.insecure_channel(teacher.grpc) as channel:
        yield teacher_pb2_grpc.LogprobServiceStub(channel)


def request_of(prompt, responses, request_id="r", **fields):
    sequences = [pb.TokenSequence(token_ids=[int(i) for i in response]) for response in responses]
    return pb.ScoreRequest(
        protocol=1, request_id=request_id, prompt_token_ids=prompt, responses=sequences, **fields
    )  # fmt: skip


async def test_scores_equal_a_plain_forward_pass_of_the_whole_sequence(client, naive, teacher) -> None:
    """Sixty ragged requests at once, so that they are batched, padded and share prompts."""
    await client.verify(vocabulary_of(make_tokenizer()), context_tokens=64)
    pairs = ragged(np.random.default_rng(0), 60, most_responses=12)  # more than max_responses: sent in parts
    answers = await asyncio.gather(*(client.score(p, r, f"r{i}", top_k=i % 3) for i, (p, r) in enumerate(pairs)))
    for index, ((prompt, responses), scores) in enumerate(zip(pairs, answers, strict=True)):
        for response, score in zip(responses, scores, strict=True):
            np.testing.assert_allclose(score.logprobs, naive.logprobs(prompt, response), atol=1e-5)
            assert score.top_logprobs.shape == score.top_token_ids.shape == (len(response), index % 3)
            if index % 3:
                mass = np.exp(score.top_logprobs).sum(-1) + np.exp(score.tail_logprobs)
                np.testing.assert_allclose(mass, 1.0, atol=1e-5)
    tokens = sum(len(response) for _, responses in pairs for response in responses)
    assert client.counters.scored_tokens == tokens == teacher.metric("xopd_teacher_scored_tokens_total")
    requests, batches = (teacher.metric(f'xopd_teacher_batch_requests_{x}{{kind="score"}}') for x in ("sum", "count"))
    assert 1 <= batches < requests


async def test_scores_do_not_depend_on_what_they_are_batched_with(client) -> None:
    pairs = ragged(np.random.default_rng(4), 12)
    together = await asyncio.gather(*(client.score(p, r, "together") for p, r in pairs))
    for (prompt, responses), scores in zip(pairs, together, strict=True):
        for response, score in zip(responses, scores, strict=True):
            alone = await client.score(prompt, [response], "alone")
            np.testing.assert_allclose(alone[0].logprobs, score.logprobs, atol=1e-5)


async def test_a_stream_is_answered_as_it_goes(stub, naive) -> None:
    """Each request waits for the answer before it: a service that reads the stream to its end first would hang."""
    pairs = ragged(np.random.default_rng(1), 6)
    stream = stub.ScoreStream(timeout=30)
    for index, (prompt, responses) in enumerate(pairs):
        await stream.write(pb.ScoreStreamRequest(request=request_of(prompt, responses, f"s{index}")))
        answer = (await stream.read()).response
        assert answer.request_id == f"s{index}"
        for response, score in zip(responses, answer.scores, strict=True):
            np.testing.assert_allclose(score.logprobs, naive.logprobs(prompt, response), atol=1e-5)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_a_stream_takes_more_than_it_works_on_at_a_time(stub) -> None:
    async def _requests():
        for index in range(200):
            yield pb.ScoreStreamRequest(request=request_of([1, 2], [[3]], f"s{index}"))

    answered = [message.response.request_id async for message in stub.ScoreStream(_requests(), timeout=60)]
    assert sorted(answered) == sorted(f"s{index}" for index in range(200))


async def test_a_bad_request_ends_its_stream_by_name(stub) -> None:
    stream = stub.ScoreStream(timeout=30)
    await stream.write(pb.ScoreStreamRequest(request=request_of([1], [[9999]])))
    assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "token id 9999" in await stream.details()


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (request_of([], [[1]]), "INVALID_ARGUMENT", "prompt_token_ids is empty"),
        (request_of([1], [[262]]), "INVALID_ARGUMENT", "token id 262; this teacher's ids are 0 to 261"),
        (request_of([1], [[2]] * 9), "INVALID_ARGUMENT", "the limit is 8"),
        (request_of([1], [[2] * 2048]), "INVALID_ARGUMENT", "is 2049; the limit is 2048"),
        (request_of([1], [[2]], top_k=17), "INVALID_ARGUMENT", "top_k is 17; the limit is 16"),
        (request_of([1], [[2]], vocabulary_fingerprint="0" * 64), "FAILED_PRECONDITION", "not this teacher's"),
    ],
)
async def test_bad_requests_are_refused_with_the_reason(stub, request_, code: str, words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Score(request_, timeout=10)
    assert error.value.code() is grpc.StatusCode[code]
    assert words in error.value.details()


async def test_the_client_does_not_repeat_what_was_refused(client) -> None:
    with pytest.raises(ScoringError, match=r"r: the teacher failed it \(invalid argument, .*token id 777"):
        await client.score([1], [[777]], "r")
    assert client.counters.retries == 0


async def test_many_greedy_answers_at_once(client, naive, teacher) -> None:
    prompts = [prompt for prompt, _ in ragged(np.random.default_rng(6), 40)]
    answers = await asyncio.gather(*(client.generate(p, max_new_tokens=10, stop_token_ids=[258]) for p in prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        choices = naive.distribution(prompt, answer.token_ids).argmax(-1)
        assert choices.tolist() == answer.token_ids.tolist()
        np.testing.assert_allclose(answer.logprobs, naive.logprobs(prompt, answer.token_ids), atol=5e-5)
    assert teacher.metric('xopd_teacher_batch_requests_count{kind="generate"}') < 40
    seeded = [await client.generate(prompts[0], 10, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert seeded[0].token_ids.tolist() == seeded[1].token_ids.tolist() != seeded[2].token_ids.tolist()


async def test_info_tells_vocabulary_and_limits(stub) -> None:
    info = await stub.Info(pb.InfoRequest(), timeout=10)
    vocabulary = vocabulary_of(make_tokenizer())
    assert (info.model, info.engine, info.vocabulary_size) == ("teacher", "transformers", 262)
    assert info.vocabulary_fingerprint == vocabulary.fingerprint
    assert ("<|im_end|>", 258) in [(t.text, t.token_id) for t in info.special_tokens]
    limits = info.limits
    assert (limits.max_context_tokens, limits.max_responses_per_request, limits.max_top_k) == (2048, 8, 16)
    assert limits.max_message_bytes == 64 * 2**20


async def test_health_reflection_and_http(teacher) -> None:
    async with grpc.aio.insecure_channel(teacher.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "xopd.v1.LogprobService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        async for message in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=10):
            names = {service.name for service in message.list_services_response.service}
    assert {"xopd.v1.LogprobService", "grpc.health.v1.Health"} <= names
    assert teacher.get("/healthz").json() == {"ok": True, "detail": ""}
    assert teacher.get("/readyz").status_code == 200
    version = teacher.get("/version").json()
    assert (version["service"], version["engine"]) == ("teacher", "transformers")
    metrics = teacher.get("/metrics").text
    for series in ("requests_total", "queue_depth", "queue_age_seconds", "batch_tokens_bucket", "padding_share_sum"):
        assert f"xopd_teacher_{series}" in metrics
    assert teacher.metric("xopd_teacher_ready") == 1


async def test_describe_is_what_status_shows(client) -> None:
    await client.verify(vocabulary_of(make_tokenizer()))
    (about,) = await client.describe()
    assert about["ok"] and about["model"] == "teacher" and about["engine"].startswith("transformers 5")


async def test_a_context_too_short_is_told_at_the_start(client) -> None:
    with pytest.raises(UserError, match="takes 2048 tokens of prompt and response, 4000 are needed"):
        await client.verify(vocabulary_of(make_tokenizer()), context_tokens=4000)


async def test_an_unreachable_teacher_is_one_sentence() -> None:
    async with TeacherClient(["127.0.0.1:9", "no-such-host.invalid:7100"], retry_limit_s=1.0) as client:
        with pytest.raises(UserError) as error:
            await client.verify(vocabulary_of(make_tokenizer()))
    sentence = str(error.value)
    assert "no teacher answered within 1 s" in sentence and "\n" not in sentence
    assert "127.0.0.1:9: unavailable" in sentence and "no-such-host.invalid:7100: the name cannot" in sentence
    async with TeacherClient(["127.0.0.1:9"], retry_limit_s=1.0) as client:
        with pytest.raises(TeacherUnreachableError):
            await client.score([1], [[2]], "r")


def with_nan(folder: Path) -> Path:
    """A teacher whose embedding of one token is broken, and whose vocabulary has one special token more."""
    make_teacher(folder, extra_special="<|extra|>")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][NAN_TOKEN] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


async def test_another_vocabulary_and_a_broken_model_are_named(tmp_path: Path) -> None:
    teacher = TeacherProcess(tmp_path / "run", with_nan(tmp_path / "model")).start()
    try:
        async with TeacherClient([teacher.grpc]) as client:
            student = vocabulary_of(make_tokenizer())
            with pytest.raises(
                UserError, match=r"special token '<\|extra\|>' is absent for the student, id 262 for the"
            ):
                await client.verify(student)
            with pytest.raises(UserError, match="serve a teacher with the student's vocabulary"):
                await client.score([1], [[2]], "r")
        async with TeacherClient([teacher.grpc]) as client:
            with pytest.raises(ScoringError, match="NaN or infinite for response 1 of request 'r'"):
                await client.score([1], [[2, 3], [NAN_TOKEN, 3]], "r")
        assert teacher.metric("xopd_teacher_non_finite_total") == MOST_BAD_ANSWERS
    finally:
        teacher.stop()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"path": "nowhere"}, "teacher.path nowhere: there is no such folder"),
        ({"host": "192.0.2.1"}, "teacher.host 192.0.2.1: is not loopback"),
    ],
)
def test_mistakes_end_with_one_sentence(tmp_path: Path, checkpoint: Path, settings, words: str) -> None:
    teacher = TeacherProcess(tmp_path, checkpoint, **settings)
    with pytest.raises(AssertionError, match="the teacher ended"):
        teacher.start()
    assert teacher.wait() == 2
    assert f"xopd: {words}" in teacher.log() and "Traceback" not in teacher.log()
