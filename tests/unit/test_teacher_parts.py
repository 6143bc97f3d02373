"""Packing, validation, the batcher, and the client's reading of answers."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xopd_teacher.batcher import Batcher, EngineError, QueueFullError
from xopd_teacher.engines import EngineInfo, ScoreItem
from xopd_teacher.engines.packing import pack
from xopd_teacher.engines.transformers_engine import TransformersEngine
from xopd_teacher.metrics import TeacherMetrics
from xopd_teacher.validation import Limits, RefusedError, check_generate, check_score

from tests.random_models import make_teacher
from xopd.config.schema import TeacherSettings
from xopd.errors import UserError
from xopd.prompts.vocabulary import fingerprint_vocabulary
from xopd.scoring import BadAnswerError
from xopd.scoring.answers import read_generated, read_scores
from xopd.scoring.client import _parts
from xopd.scoring.pods import EndpointFile, parse_endpoint, parse_source
from xopd.scoring.pool import _addresses
from xopd.security import Credentials
from xopd.v1 import teacher_pb2 as pb

lengths = st.integers(1, 40)
requests = st.lists(st.tuples(lengths, st.lists(lengths, min_size=1, max_size=6)), min_size=1, max_size=12)


@given(requests, st.integers(1, 300))
def test_packing_holds_each_sequence_once_within_the_budget(shape, token_budget: int) -> None:
    # Prompts of one length are the same prompt here, so sharing is exercised too.
    items = [ScoreItem((7,) * p, tuple(np.zeros(n, dtype=np.int64) for n in ns)) for p, ns in shape]
    passes = pack(items, token_budget)
    prompts = [prompt for one in passes for prompt in one.prompts]
    assert sorted(prompts) == sorted({item.prompt for item in items})
    rows = [(one, row) for one in passes for run in one.row_passes for row in run]
    expected = {(i, r) for i, item in enumerate(items) for r in range(len(item.responses))}
    assert len(rows) == len(expected) and {(row.item, row.response) for _, row in rows} == expected
    for one, row in rows:
        assert one.prompts[row.prompt] == items[row.item].prompt
        assert row.tokens is items[row.item].responses[row.response]
    for one in passes:
        widest = max(map(len, one.prompts))
        assert len(one.prompts) == 1 or len(one.prompts) * widest <= token_budget
        for run in one.row_passes:
            assert len(run) == 1 or len(run) * (widest + max(len(row.tokens) for row in run)) <= token_budget


VOCABULARY = fingerprint_vocabulary({i: str(i) for i in range(90)}, {"<end>": 89})
INFO = EngineInfo("transformers", "5", "float32", VOCABULARY, max_context_tokens=50, max_temperature=4.0)
LIMITS = Limits(max_context_tokens=50, max_tokens_per_request=80, max_responses_per_request=4, max_top_k=8)


def score_request(prompt=(1, 2), responses=((3,),), **fields):
    sequences = [pb.TokenSequence(token_ids=ids) for ids in responses]
    return pb.ScoreRequest(**{"protocol": 1, "prompt_token_ids": prompt, "responses": sequences, **fields})


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (score_request(prompt=()), "INVALID_ARGUMENT", "prompt_token_ids is empty"),
        (score_request(responses=()), "INVALID_ARGUMENT", "responses is empty"),
        (score_request(responses=((3,), ())), "INVALID_ARGUMENT", "responses[1].token_ids is empty"),
        (score_request(prompt=(1, 90)), "INVALID_ARGUMENT", "holds token id 90; this teacher's ids are 0 to 89"),
        (score_request(responses=((3,), (4, 90))), "INVALID_ARGUMENT", "responses[1].token_ids holds token id 90"),
        (score_request(responses=((3,), (4, -1))), "INVALID_ARGUMENT", "responses[1].token_ids holds token id -1"),
        (score_request(responses=((3,),) * 5), "INVALID_ARGUMENT", "responses is 5; the limit is 4"),
        (score_request(prompt=(1,) * 48, responses=((2,) * 3,)), "INVALID_ARGUMENT", "is 51; the limit is 50"),
        (score_request(responses=((2,) * 40,) * 2), "INVALID_ARGUMENT", "(tokens) is 82; the limit is 80"),
        (score_request(top_k=9), "INVALID_ARGUMENT", "top_k is 9; the limit is 8"),
        (score_request(top_k=-1), "INVALID_ARGUMENT", "top_k is -1"),
        (score_request(request_id="r" * 513), "INVALID_ARGUMENT", "request_id (characters) is 513"),
        (score_request(protocol=0), "INVALID_ARGUMENT", "protocol is missing"),
        (score_request(protocol=2), "FAILED_PRECONDITION", "speaks protocol 2"),
        (score_request(vocabulary_fingerprint="f" * 64), "FAILED_PRECONDITION", "the caller's vocabulary (ffff"),
    ],
)  # fmt: skip
def test_bad_score_requests_are_refused_by_name(request_: pb.ScoreRequest, code: str, words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        check_score(request_, INFO, LIMITS)
    assert refused.value.code is grpc.StatusCode[code]
    assert words in str(refused.value)


def test_the_vocabularys_last_token_is_within_it() -> None:
    assert check_score(score_request(responses=((89,),)), INFO, LIMITS).tokens == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": 4.5}, "temperature is 4.5; this teacher's engine takes 4.0 at most"),
        ({"seed": -3}, "seed is -3"),
        ({"max_new_tokens": 49}, "prompt plus max_new_tokens is 51; the limit is 50"),
        ({"prompt_token_ids": [90]}, "prompt_token_ids holds token id 90"),
        ({"stop_token_ids": [89, 90]}, "stop_token_ids holds token id 90"),
        ({"stop_token_ids": [-1]}, "stop_token_ids holds token id -1"),
        ({"protocol": 2}, "speaks protocol 2"),
        ({"protocol": 0}, "protocol is missing"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids is 65; the limit is 64"),
    ],
)
def test_bad_generate_requests_are_refused_by_name(fields, words: str) -> None:
    request = pb.GenerateRequest(**{"protocol": 1, "prompt_token_ids": [1, 2], "max_new_tokens": 5, **fields})
    with pytest.raises(RefusedError, match=words):
        check_generate(request, INFO, LIMITS)


class Held:
    """A batcher over a real engine, whose thread is busy until `release`."""

    def __init__(self, engine: TransformersEngine, **settings) -> None:
        self.metrics = TeacherMetrics()
        self.thread = ThreadPoolExecutor(1)
        self.let_go = threading.Event()
        self.thread.submit(self.let_go.wait, 30)
        self.batcher = Batcher(
            engine, self.thread, self.metrics,
            **{"token_budget": 1000, "batch_window_s": 0.0, "max_queue": 3, **settings},
        )  # fmt: skip
        self.task = asyncio.create_task(self.batcher.run())

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.let_go.set()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.thread.shutdown()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    return TransformersEngine(TeacherSettings(path=str(make_teacher(tmp_path_factory.mktemp("teacher")))))


def item(first: int = 1) -> ScoreItem:
    return ScoreItem((first, 2, 3), (np.asarray([4, 5]),))


async def start(coroutine):
    """Begin a coroutine and let it reach its first wait."""
    task = asyncio.create_task(coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_waiting_requests_share_a_batch_and_keep_their_answers(engine: TransformersEngine) -> None:
    alone = [engine.score([item(i)]).answers[0][0].logprobs for i in range(4)]
    async with Held(engine) as held:
        tasks = [await start(held.batcher.score(item(i), None)) for i in range(4)]
        assert held.batcher.depth() == 3  # the first is with the engine already
        held.let_go.set()
        for expected, task in zip(alone, tasks, strict=True):
            scores, done = await task
            np.testing.assert_allclose(scores[0].logprobs, expected, atol=1e-5)
            assert done.queue_seconds >= 0
        await held.batcher.until_idle()
        assert held.count("xopd_teacher_batch_requests_count", kind="score") == 2
        assert held.count("xopd_teacher_batch_requests_sum", kind="score") == 4


async def test_the_token_budget_bounds_a_batch(engine: TransformersEngine) -> None:
    async with Held(engine, token_budget=10, max_queue=9) as held:
        tasks = [await start(held.batcher.score(item(i), None)) for i in range(5)]
        held.let_go.set()
        await asyncio.gather(*tasks)
        # Five tokens each: the first alone, then two and two.
        assert held.count("xopd_teacher_batch_requests_count", kind="score") == 3


async def test_a_full_queue_refuses_with_a_hint(engine: TransformersEngine) -> None:
    async with Held(engine) as held:
        tasks = [await start(held.batcher.score(item(), None)) for _ in range(4)]
        with pytest.raises(QueueFullError, match="3 requests wait already") as full:
            await held.batcher.score(item(), None)
        assert 0 < full.value.retry_after_s <= 5
        held.let_go.set()
        await asyncio.gather(*tasks)


async def test_the_dead_cost_no_compute(engine: TransformersEngine) -> None:
    async with Held(engine) as held:
        first = await start(held.batcher.score(item(), None))
        gone = await start(held.batcher.score(item(), None))
        late = await start(held.batcher.score(item(), time.monotonic() - 1))
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        held.let_go.set()
        await first
        with pytest.raises(TimeoutError, match="deadline passed"):
            await late
        await held.batcher.until_idle()
        assert held.count("xopd_teacher_dropped_requests_total", reason="caller_gone") == 1
        assert held.count("xopd_teacher_dropped_requests_total", reason="deadline") == 1
        assert held.count("xopd_teacher_batch_requests_sum", kind="score") == 1


async def test_an_engine_that_breaks_does_not_end_the_loop(engine: TransformersEngine) -> None:
    async with Held(engine) as held:
        held.let_go.set()
        with pytest.raises(EngineError, match="RuntimeError: index 99999"):
            await held.batcher.score(ScoreItem((1,), (np.asarray([99_999]),) * 2), None)
        assert held.batcher.failures_in_a_row == 1
        await held.batcher.score(item(), None)
        assert held.batcher.failures_in_a_row == 0


def answer(logprobs=((-0.5,),), request_id="r", model="m", seconds=0.0, **fields):
    scores = [pb.ResponseLogprobs(logprobs=values, **fields) for values in logprobs]
    return pb.ScoreResponse(request_id=request_id, scores=scores, model=model, queue_seconds=seconds)


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (answer(request_id="other"), "the teacher answered 'other'"),
        (answer(logprobs=((-1.0,), (-1.0,))), "1 responses were sent, 2 scores came"),
        (answer(logprobs=((-1.0, -1.0),)), "response 0 of r: 1 log-probabilities were wanted, 2 came"),
        (answer(logprobs=((float("nan"),),)), "nan cannot be a log-probability"),
        (answer(logprobs=((float("-inf"),),)), "-inf cannot be a log-probability"),
        (answer(logprobs=((0.5,),)), "0.5 cannot be a log-probability"),
        (answer(logprobs=()), "1 responses were sent, 0 scores came"),
        (answer(logprobs=((),)), "1 log-probabilities were wanted, 0 came"),
        (answer(top_token_ids=[1]), "0 top tokens were asked for, 1 came"),
        (answer(model="other"), "'other' answered, the pod says that it serves 'm'"),
        (answer(seconds=float("nan")), "took a time that is none"),
    ],
)
def test_impossible_answers_are_refused(response: pb.ScoreResponse, words: str) -> None:
    with pytest.raises(BadAnswerError, match=words):
        read_scores(score_request(request_id="r"), response, "m", 90)


@pytest.mark.parametrize("token", [-1, 90])
def test_a_top_token_outside_the_vocabulary_is_refused(token: int) -> None:
    """Such as a padding row of its head, where a teacher takes it for a token."""
    response = answer(((-1.0,),), top_token_ids=[token, 89], top_logprobs=[-1, -2], tail_logprobs=[-4])
    with pytest.raises(BadAnswerError, match=f"token id {token} is among the most probable, the vocabulary has 90"):
        read_scores(score_request(request_id="r", top_k=2), response, "m", 90)


@pytest.mark.parametrize(
    ("token_ids", "logprobs", "words"),
    [
        ([], [], "at most 3 tokens were asked for, 0 came"),
        ([1] * 4, [-1.0] * 4, "at most 3 tokens were asked for, 4 came"),
        ([1, 9], [-1.0] * 2, "outside the vocabulary of 9"),
        ([1, -2], [-1.0] * 2, "outside the vocabulary of 9"),
        ([1, 2], [-1.0], "2 log-probabilities were wanted, 1 came"),
        ([1], [float("nan")], "nan cannot be a log-probability"),
    ],
)
def test_impossible_generations_are_refused(token_ids, logprobs, words) -> None:
    response = pb.GenerateResponse(token_ids=token_ids, logprobs=logprobs)
    with pytest.raises(BadAnswerError, match=words):
        read_generated(pb.GenerateRequest(max_new_tokens=3), response, 9)


def test_a_top_k_answer_has_rows_of_k() -> None:
    response = answer(
        ((-1.0, -2.0),), top_token_ids=[1, 2, 3, 4], top_logprobs=[-1, -2, -1, -3], tail_logprobs=[-4, -5]
    )
    score = read_scores(score_request(responses=((3, 4),), request_id="r", top_k=2), response, "m", 90)[0]
    assert score.top_token_ids.tolist() == [[1, 2], [3, 4]]
    assert score.tail_logprobs.tolist() == [-4.0, -5.0]


@given(
    st.integers(1, 50), st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 8), st.integers(60, 200)
)
def test_parts_keep_order_and_limits(prompt: int, sizes: list[int], most: int, tokens: int) -> None:
    responses = [pb.TokenSequence(token_ids=[i] * n) for i, n in enumerate(sizes)]
    limits = pb.Limits(max_responses_per_request=most, max_tokens_per_request=tokens)
    parts = _parts(prompt, responses, limits)
    assert [r for part in parts for r in part] == responses
    for part in parts:
        assert 1 <= len(part) <= most
        assert len(part) == 1 or prompt + sum(len(r.token_ids) for r in part) <= tokens


@pytest.mark.parametrize(
    "text", ["teacher", ":7100", "teacher:", "teacher:0", "teacher:70000", "::1:7100", "http://t:80x"]
)
def test_what_is_no_endpoint_is_named(text: str) -> None:
    with pytest.raises(UserError, match="is no host:port"):
        parse_endpoint(text)


def test_endpoints_are_read() -> None:
    assert str(parse_endpoint("teacher.svc:7100")) == "teacher.svc:7100"
    assert str(parse_endpoint("[::1]:7100")) == "[::1]:7100"


def test_a_file_of_endpoints(tmp_path: Path) -> None:
    listed = parse_source(f"file:{tmp_path / 'teachers'}")
    assert isinstance(listed, EndpointFile)
    with pytest.raises(FileNotFoundError):
        listed.read()
    (tmp_path / "teachers").write_text("# ours\n\n teacher.svc:7100 \n[::1]:7101\n")
    assert [str(endpoint) for endpoint in listed.read()] == ["teacher.svc:7100", "[::1]:7101"]
    (tmp_path / "teachers").write_text("teacher.svc\n")
    with pytest.raises(UserError, match="is no host:port"):
        listed.read()


def test_the_client_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, xopd.scoring; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_a_listed_teacher_on_another_machine_is_not_called_without_token_and_tls(tmp_path):
    path = tmp_path / "teachers"
    path.write_text("127.0.0.1:7100\n10.1.2.3:7100\n")
    source = parse_source(f"file:{path}")
    with pytest.raises(UserError, match=r"10\.1\.2\.3:7100 is not loopback, and security\.token"):
        await _addresses(source, Credentials())
    for credentials in (Credentials(insecure=True), Credentials(token="t" * 16, authorities="ca.pem")):
        assert list(await _addresses(source, credentials)) == [("127.0.0.1", 7100), ("10.1.2.3", 7100)]
    path.write_text("127.0.0.1:7100\n")
    assert list(await _addresses(source, Credentials())) == [("127.0.0.1", 7100)]
