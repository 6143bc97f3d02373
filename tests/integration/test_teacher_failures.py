"""Teachers that die, come back, are swamped or are sent away: every answer is right and none is lost."""

from __future__ import annotations

import asyncio
import json
import socket

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.integration.teacher_process import TeacherProcess, ragged
from tests.random_models import make_tokenizer
from xopd.prompts.vocabulary import vocabulary_of
from xopd.scoring import TeacherClient
from xopd.v1 import teacher_pb2 as pb
from xopd.v1 import teacher_pb2_grpc


@pytest.fixture(scope="module")
def small(tmp_path_factory, checkpoint):
    """A teacher that two waiting requests fill."""
    process = TeacherProcess(tmp_path_factory.mktemp("small"), checkpoint, max_queue=2, token_budget=128)
    yield process.start()
    process.stop()


@pytest.fixture
def start(tmp_path, checkpoint):
    """Starts a teacher with these settings; all are ended after the test."""
    started = []

    def _start(wait: bool = True, **settings) -> TeacherProcess:
        process = TeacherProcess(tmp_path / f"teacher-{len(started)}", checkpoint, **settings)
        started.append(process)
        return process.start(wait)

    yield _start
    for process in started:
        process.stop()


def assert_right(naive, pairs, answers) -> None:
    assert len(answers) == len(pairs)
    for (prompt, responses), scores in zip(pairs, answers, strict=True):
        assert len(scores) == len(responses)
        for response, score in zip(responses, scores, strict=True):
            np.testing.assert_allclose(score.logprobs, naive.logprobs(prompt, response), atol=1e-5)


async def score_all(client, pairs):
    return await asyncio.gather(*(client.score(p, r, f"r{i}") for i, (p, r) in enumerate(pairs)))


async def test_kill_9_and_restart_on_the_same_port_under_load(start, naive) -> None:
    teacher = start(token_budget=256)  # small batches, so that work is under way for a while
    pairs = ragged(np.random.default_rng(0), 300)
    async with TeacherClient([teacher.grpc], attempts=3, retry_limit_s=90.0) as client:
        await client.verify(vocabulary_of(make_tokenizer()))
        load = asyncio.create_task(score_all(client, pairs))
        while client.counters.calls < 30:
            await asyncio.sleep(0.001)
        assert not load.done()
        port = teacher.settings["port"]
        teacher.kill()
        await asyncio.to_thread(teacher.start)
        assert teacher.settings["port"] == port
        assert_right(naive, pairs, await load)
        assert client.counters.retries > 0
        # What the first life answered, and nothing twice as far as the trainer can see.
        assert client.counters.scored_tokens == sum(len(y) for _, responses in pairs for y in responses)


async def test_two_pods_share_the_load_and_cover_for_each_other(start, naive) -> None:
    first, second = start(wait=False, token_budget=256), start(token_budget=256)
    first.wait_ready()
    pairs = ragged(np.random.default_rng(1), 200)
    async with TeacherClient([first.grpc, second.grpc]) as client:
        await client.verify(vocabulary_of(make_tokenizer()))
        assert_right(naive, pairs, await score_all(client, pairs))
        about = await client.describe()
        assert [pod["ok"] for pod in about] == [True, True]
        assert min(pod["scored_tokens"] for pod in about) > 0.2 * client.counters.scored_tokens
        load = asyncio.create_task(score_all(client, pairs))
        already = client.counters.calls
        while client.counters.calls < already + 20:
            await asyncio.sleep(0.001)
        first.kill()
        assert_right(naive, pairs, await load)
        about = {pod["endpoint"]: pod for pod in await client.describe()}
        assert not about[first.grpc]["ok"] and about[second.grpc]["ok"]
        # It comes back by itself once it answers again.
        await asyncio.to_thread(first.start)
        while not {pod["endpoint"]: pod["ok"] for pod in await client.describe()}[first.grpc]:
            await asyncio.sleep(0.02)
        assert_right(naive, pairs[:40], await score_all(client, pairs[:40]))


async def test_a_name_with_several_addresses_is_several_pods(small, naive) -> None:
    """`localhost` is 127.0.0.1 and often ::1 too, where nobody listens: the one that answers is enough."""
    port = small.settings["port"]
    addresses = {entry[4][0] for entry in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
    async with TeacherClient([f"localhost:{port}"]) as client:
        assert_right(naive, [([1, 2], [np.asarray([3])])], [await client.score([1, 2], [[3]], "r")])
        assert len(await client.describe()) == len(addresses)


async def test_a_file_of_endpoints_is_followed_while_calls_are_made(start, naive, tmp_path) -> None:
    first, second = start(wait=False, token_budget=256), start(token_budget=256)
    first.wait_ready()
    listed = tmp_path / "teachers"
    listed.write_text(f"# on this machine\n{first.grpc}\n")
    pairs = ragged(np.random.default_rng(5), 60)

    async def scored_by(client) -> dict[str, int]:
        return {pod["endpoint"]: pod["scored_tokens"] for pod in await client.describe()}

    async with TeacherClient([f"file:{listed}"]) as client:
        await client.verify(vocabulary_of(make_tokenizer()))
        assert_right(naive, pairs, await score_all(client, pairs))
        assert set(await scored_by(client)) == {first.grpc}
        listed.write_text(f"{first.grpc}\n{second.grpc}\n")
        while not (await scored_by(client)).get(second.grpc):
            assert_right(naive, pairs, await score_all(client, pairs))
        # A teacher that leaves is taken from the list first; whatever it turns away goes to the other.
        load = asyncio.create_task(score_all(client, pairs * 3))
        listed.write_text(f"{second.grpc}\n")
        first.terminate()
        assert_right(naive, pairs * 3, await load)
        while set(await scored_by(client)) != {second.grpc}:
            await asyncio.sleep(0.02)
        # A file that is gone, or torn, takes no pod away: its last reading stands.
        listed.write_text("no endpoint")
        await asyncio.sleep(1.5)
        assert_right(naive, pairs, await score_all(client, pairs))


async def test_a_swamped_teacher_says_when_to_come_back_and_all_get_through(small, naive) -> None:
    pairs = [(prompt, responses[:1]) for prompt, responses in ragged(np.random.default_rng(2), 120)]
    async with grpc.aio.insecure_channel(small.grpc) as channel:
        stub = teacher_pb2_grpc.LogprobServiceStub(channel)
        request = pb.ScoreRequest(
            protocol=1, prompt_token_ids=[1] * 50, responses=[pb.TokenSequence(token_ids=[2] * 50)]
        )
        outcomes = await asyncio.gather(*(stub.Score(request, timeout=30) for _ in range(60)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert 0 < len(refused) < 60
    for error in refused:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert 50 <= int(dict(error.trailing_metadata())["retry-after-ms"]) <= 5000
    async with TeacherClient([small.grpc], attempts=2, retry_limit_s=60.0) as client:
        assert_right(naive, pairs, await score_all(client, pairs))
    assert small.metric('xopd_teacher_requests_total{method="score",outcome="resource_exhausted"}') >= len(refused)


async def test_a_caller_that_goes_away_costs_nothing_more(small, naive) -> None:
    before = small.metric("xopd_teacher_scored_tokens_total")
    pairs = ragged(np.random.default_rng(3), 200)
    async with TeacherClient([small.grpc]) as client:
        load = asyncio.create_task(score_all(client, pairs))
        while client.counters.calls < 5:
            await asyncio.sleep(0.001)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        assert_right(naive, pairs[:3], await score_all(client, pairs[:3]))
    while small.metric("xopd_teacher_queue_depth"):
        await asyncio.sleep(0.02)
    scored = small.metric("xopd_teacher_scored_tokens_total") - before
    assert scored < sum(len(y) for _, ys in pairs for y in ys)


async def test_sigterm_finishes_what_was_accepted_and_refuses_the_rest(start, naive) -> None:
    teacher = start(token_budget=256)
    pairs = ragged(np.random.default_rng(4), 150)
    async with grpc.aio.insecure_channel(teacher.grpc) as channel:
        stub, health = teacher_pb2_grpc.LogprobServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="xopd.v1.LogprobService"), timeout=60)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        requests = [
            pb.ScoreRequest(
                protocol=1, prompt_token_ids=p, responses=[pb.TokenSequence(token_ids=[int(i) for i in y]) for y in ys]
            )
            for p, ys in pairs
        ]
        calls = [asyncio.ensure_future(stub.Score(request, timeout=60)) for request in requests]
        while teacher.metric("xopd_teacher_queue_depth") < 5:
            await asyncio.sleep(0)
        teacher.terminate()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Score(requests[0], timeout=10)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    # CANCELLED is gRPC's own word for a call that meets the server's very end.
    turned_away = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert refused.value.code() in turned_away
    assert await asyncio.to_thread(teacher.wait) == 0
    answered = [(pair, o) for pair, o in zip(pairs, outcomes, strict=True) if isinstance(o, pb.ScoreResponse)]
    draining = next(json.loads(line) for line in teacher.log().splitlines() if '"draining"' in line)
    assert len(answered) >= draining["waiting"] > 0
    for (prompt, responses), answer in answered:
        for response, score in zip(responses, answer.scores, strict=True):
            np.testing.assert_allclose(score.logprobs, naive.logprobs(prompt, response), atol=1e-5)
    late = [outcome.code() for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert set(late) <= turned_away
