"""Ids that are no tokens: rows by which an output head exceeds the vocabulary, and holes within it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from xopd_teacher.engines import GenerateItem, ScoreItem
from xopd_teacher.engines.open import open_engine
from xopd_teacher.engines.probe import probe_items
from xopd_teacher.engines.transformers_engine import TransformersEngine
from xopd_teacher.engines.vllm_engine import VllmEngine
from xopd_teacher.server import limits_of

from tests.integration.teacher_process import ragged
from tests.random_models import make_teacher, make_tokenizer
from xopd.config.schema import TeacherSettings
from xopd.errors import UserError
from xopd.objective import readout

TOKENS, ROWS = 640, 704
HOLES = (100, 260, 261)


class Reference:
    """The model in float64, over the ids below `size`."""

    def __init__(self, folder: Path, size: int) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        self.size = size

    @torch.no_grad()
    def logits(self, prompt, response) -> torch.Tensor:
        ids = torch.tensor([[*map(int, prompt), *map(int, response)]])
        return self.model(ids).logits[0, len(prompt) - 1 : -1]

    def distribution(self, prompt, response) -> torch.Tensor:
        return torch.log_softmax(self.logits(prompt, response)[:, : self.size], dim=-1)


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("padded") / "teacher"
    return make_teacher(folder, words=TOKENS - 262, padded_rows=ROWS - TOKENS)


@pytest.fixture(scope="module")
def engine(padded: Path) -> TransformersEngine:
    return TransformersEngine(TeacherSettings(path=str(padded), max_top_k=1000))


@pytest.fixture(scope="module")
def reference(padded: Path) -> Reference:
    return Reference(padded, TOKENS)


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("holed") / "teacher", holes=HOLES, padded_rows=7)


@pytest.mark.parametrize("logits_at_once", [2**26, 3 * ROWS, 1])
def test_padding_is_nobodys_token(engine, reference, monkeypatch, logits_at_once) -> None:
    """However few positions are read at a time; and up to all tokens but one, which are the tail."""
    monkeypatch.setattr(readout, "LOGITS_AT_ONCE", logits_at_once)
    monkeypatch.setattr(readout, "LEAST_TOKENS", 1)
    pairs = ragged(np.random.default_rng(0), 8, vocabulary=TOKENS)
    items = [ScoreItem(tuple(p), tuple(r), k) for (p, r), k in zip(pairs, [0, 1, 7, TOKENS - 1] * 2, strict=True)]
    in_padding = []
    for item, answer in zip(items, engine.score(items).answers, strict=True):
        for response, score in zip(item.responses, answer, strict=True):
            full = reference.distribution(item.prompt, response)
            in_padding.append(torch.softmax(reference.logits(item.prompt, response), -1)[:, TOKENS:].sum(-1))
            chosen = full.gather(-1, torch.from_numpy(response)[:, None])[:, 0]
            np.testing.assert_allclose(score.logprobs, chosen.numpy(), atol=2e-5)
            top = full.topk(item.top_k, dim=-1)
            np.testing.assert_allclose(score.top_logprobs, top.values.numpy(), atol=2e-5)
            if item.top_k:
                assert score.top_token_ids.max() < TOKENS
                at_ids = full.gather(-1, torch.from_numpy(score.top_token_ids).long())
                np.testing.assert_allclose(score.top_logprobs, at_ids.numpy(), atol=2e-5)
                assert all(len(set(row)) == item.top_k for row in score.top_token_ids.tolist())
                rest = full.scatter(-1, top.indices, float("-inf")).logsumexp(-1)
                np.testing.assert_allclose(score.tail_logprobs, rest.numpy(), atol=2e-4)
    # Taken for tokens, the padding would hold nearly everything.
    assert torch.cat(in_padding).mean() > 0.9


def test_padding_is_never_generated(engine, reference) -> None:
    items = [
        GenerateItem((5, 6, first), 16, temperature, frozenset(), seed)
        for first in range(4)
        for seed, temperature in enumerate((0.0, 1.0, 5.0, 1e6))
    ]
    for item, answer in zip(items, engine.generate(items).answers, strict=True):
        assert answer.token_ids.max() < TOKENS
        full = reference.distribution(item.prompt, answer.token_ids)
        if item.temperature == 0.0:
            assert answer.token_ids.tolist() == full.argmax(-1).tolist()
        at_ids = full.gather(-1, torch.from_numpy(answer.token_ids)[:, None])[:, 0]
        np.testing.assert_allclose(answer.logprobs, at_ids.numpy(), atol=2e-5)


def test_limits_follow_the_vocabulary(engine) -> None:
    settings = TeacherSettings(path="p", max_top_k=1000)
    assert limits_of(settings, engine.info).max_top_k == TOKENS - 1
    assert limits_of(settings.model_copy(update={"max_top_k": 5}), engine.info).max_top_k == 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_probe_is_over_the_tokens_too(padded, reference, dtype) -> None:
    """So that a padded replica and one whose padding was cut off agree; bfloat16 stays within what replicas may."""
    engine, probed = open_engine(TeacherSettings(path=str(padded), dtype=dtype))
    assert engine.info.dtype == dtype
    items = probe_items(TOKENS)
    assert len(probed) == sum(len(response) for item in items for response in item.responses) == 108
    expected = np.concatenate(
        [
            reference.distribution(item.prompt, response).gather(-1, torch.from_numpy(response)[:, None])[:, 0].numpy()
            for item in items
            for response in item.responses
        ]
    )
    assert np.abs(probed - expected).mean() < (1e-5 if dtype == "float32" else 0.1)


def test_the_probe_never_changes() -> None:
    """Teachers of different versions compare their answers to it."""

    def drawn(first: int, last: int) -> list[int]:
        # Draw n of Lehmer's generator in closed form; the standard fixes draw 10,000.
        return [pow(48_271, n, 2**31 - 1) * 151_669 // (2**31 - 1) for n in range(first, last + 1)]

    assert pow(48_271, 10_000, 2**31 - 1) == 399_268_537
    first, *_, last = probe_items(151_669)
    assert list(first.prompt) == drawn(1, 7) == [3, 12_896, 91_206, 135_229, 146_808, 28_770, 78_105]
    assert first.responses[0].tolist() == [*first.prompt * 2, *drawn(8, 11)]
    assert last.responses[1].tolist() == [*last.prompt * 2, *drawn(42, 45)]
    assert all(0 <= token < 5 for item in probe_items(5) for r in item.responses for token in (*item.prompt, *r))


def test_holes_are_scored_and_never_generated(holed) -> None:
    """Both sides count them among their ids; as text they would be nothing."""
    engine, reference = TransformersEngine(TeacherSettings(path=str(holed))), Reference(holed, 265)
    assert (engine.info.vocabulary.size, engine.holes) == (265, HOLES)
    response = np.asarray([4, 100, 260, 5])
    (score,) = engine.score([ScoreItem((1, 2, 3), (response,), 264)]).answers[0]
    full = reference.distribution((1, 2, 3), response)
    np.testing.assert_allclose(score.logprobs, full.gather(-1, torch.from_numpy(response)[:, None])[:, 0], atol=2e-5)
    np.testing.assert_allclose(score.top_logprobs, full.topk(264).values.numpy(), atol=2e-5)
    items = [GenerateItem((5, first), 24, t, frozenset(), 3) for first in range(6) for t in (0.0, 1.0, 1e6)]
    would = 0
    for item, answer in zip(items, engine.generate(items).answers, strict=True):
        assert not set(answer.token_ids.tolist()) & set(HOLES) and answer.token_ids.max() < 265
        full = reference.distribution(item.prompt, answer.token_ids)
        would += int(torch.isin(full.argmax(-1), torch.tensor(HOLES)).sum())
        if item.temperature == 0.0:
            full[:, list(HOLES)] = float("-inf")
            assert answer.token_ids.tolist() == full.argmax(-1).tolist()
    assert would > 20  # the most probable id was often none


@pytest.mark.parametrize("engine_class", [TransformersEngine, VllmEngine])
def test_a_tokenizer_larger_than_the_head_is_refused_by_either_engine(tmp_path: Path, engine_class) -> None:
    folder = make_teacher(tmp_path / "larger")
    make_tokenizer(extra_special="<|one_more|>").save_pretrained(folder)
    with pytest.raises(UserError, match="its tokenizer has 263 tokens, its model 262; give a checkpoint"):
        engine_class(TeacherSettings(path=str(folder)))
