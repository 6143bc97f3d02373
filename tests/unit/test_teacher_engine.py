"""The transformers engine against plain forward passes and transformers' own generation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from xopd_teacher.engines import GenerateItem, ScoreItem
from xopd_teacher.engines.transformers_engine import TransformersEngine

from tests.integration.teacher_process import Naive, ragged
from tests.random_models import make_student, make_teacher, make_tokenizer
from xopd.config.schema import TeacherSettings
from xopd.errors import UserError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def naive(checkpoint: Path) -> Naive:
    return Naive(checkpoint)


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> TransformersEngine:
    return TransformersEngine(TeacherSettings(path=str(checkpoint)))


def items_of(pairs, top_k=0):
    return [ScoreItem(tuple(prompt), tuple(responses), top_k) for prompt, responses in pairs]


@pytest.mark.parametrize("token_budget", [70, 200, 1000, 100_000])
def test_scores_equal_plain_forward_passes(checkpoint: Path, naive: Naive, token_budget: int) -> None:
    """Whatever the budget cuts the batch into, from one sequence a pass to everything in one."""
    engine = TransformersEngine(TeacherSettings(path=str(checkpoint), token_budget=token_budget))
    pairs = ragged(np.random.default_rng(token_budget), 30)
    batch = engine.score(items_of(pairs))
    for (prompt, responses), answer in zip(pairs, batch.answers, strict=True):
        for response, score in zip(responses, answer, strict=True):
            np.testing.assert_allclose(score.logprobs, naive.logprobs(prompt, response), atol=1e-5)


def test_a_shift_by_one_would_be_seen(engine: TransformersEngine, naive: Naive) -> None:
    """The neighbouring positions give other numbers, so the tests above cannot pass by accident."""
    rng = np.random.default_rng(3)
    prompt, response = rng.integers(0, 262, 9).tolist(), rng.integers(0, 262, 12)
    scored = engine.score(items_of([(prompt, [response])])).answers[0][0].logprobs
    np.testing.assert_allclose(scored, naive.logprobs(prompt, response), atol=1e-5)
    ids = torch.tensor([[*prompt, *response.tolist()]])
    with torch.inference_mode():
        everything = torch.log_softmax(naive.model(ids).logits[0], dim=-1)
    for shift in (-1, 1):
        rows = everything[len(prompt) - 1 + shift :][: len(response)]
        shifted = rows.gather(-1, torch.from_numpy(response)[: len(rows), None])[:, 0].numpy()
        assert np.abs(shifted - scored[: len(shifted)]).min() > 1e-3
    assert np.abs(scored[1:] - naive.logprobs([*prompt, response[0]], response[:-1])).max() > 0.1


def test_the_first_token_is_read_from_the_last_prompt_position(engine: TransformersEngine, naive: Naive) -> None:
    with torch.inference_mode():
        after_prompt = torch.log_softmax(naive.model(torch.tensor([[5, 9, 2]])).logits[0, -1], dim=-1)
    batch = engine.score(items_of([((5, 9, 2), [np.asarray([token]) for token in range(20)])]))
    found = np.asarray([score.logprobs[0] for score in batch.answers[0]])
    np.testing.assert_allclose(found, after_prompt[:20].numpy(), atol=1e-5)


def test_top_k_and_its_tail_are_the_whole_distribution(engine: TransformersEngine, naive: Naive) -> None:
    pairs = ragged(np.random.default_rng(5), 12)
    items = [ScoreItem(tuple(p), tuple(r), top_k) for (p, r), top_k in zip(pairs, [0, 1, 7, 261] * 3, strict=True)]
    for item, answer in zip(items, engine.score(items).answers, strict=True):
        for response, score in zip(item.responses, answer, strict=True):
            full = naive.distribution(item.prompt, response)
            expected = full.topk(item.top_k, dim=-1)
            np.testing.assert_allclose(score.logprobs, naive.logprobs(item.prompt, response), atol=1e-5)
            np.testing.assert_allclose(score.top_logprobs, expected.values.numpy(), atol=1e-5)
            assert score.top_token_ids.shape == (len(response), item.top_k)
            if item.top_k:
                mass = np.exp(score.top_logprobs.astype(np.float64)).sum(-1) + np.exp(score.tail_logprobs)
                np.testing.assert_allclose(mass, 1.0, atol=1e-5)
                rest = full.scatter(-1, expected.indices, float("-inf")).logsumexp(-1)
                np.testing.assert_allclose(score.tail_logprobs, rest.numpy(), atol=1e-4)


def test_a_shared_prompt_is_computed_once(engine: TransformersEngine) -> None:
    prompt, response = tuple(range(40)), np.arange(5)
    batch = engine.score([ScoreItem(prompt, (response,) * 4), ScoreItem(prompt, (response,) * 4)])
    # 40 for the prompt, and 4 for each of the 8 responses: the last token of a response predicts nothing.
    assert (batch.forward_tokens, batch.padding_tokens) == (40 + 8 * 4, 0)


def test_greedy_answers_equal_transformers_own(engine: TransformersEngine, naive: Naive) -> None:
    prompts = [pair[0] for pair in ragged(np.random.default_rng(8), 9)]
    stops = frozenset({17, 40, 41})
    items = [GenerateItem(tuple(p), 24, 0.0, stops, 0) for p in prompts]
    for item, answer in zip(items, engine.generate(items).answers, strict=True):
        expected = naive.model.generate(
            torch.tensor([item.prompt]), max_new_tokens=24, do_sample=False, eos_token_id=sorted(stops), pad_token_id=0
        )[0, len(item.prompt) :]
        assert answer.token_ids.tolist() == expected.tolist()
        np.testing.assert_allclose(answer.logprobs, naive.logprobs(item.prompt, answer.token_ids), atol=1e-5)


def test_a_sampled_answer_depends_on_its_seed_alone(engine: TransformersEngine) -> None:
    one = GenerateItem((4, 5, 6), 12, 1.0, frozenset({1}), 11)
    others = [GenerateItem(tuple(range(2 + i)), 6 + i, 0.7, frozenset({3}), i) for i in range(7)]
    alone = engine.generate([one]).answers[0].token_ids.tolist()
    amid = engine.generate([*others[:4], one, *others[4:]]).answers[4].token_ids.tolist()
    assert alone == amid
    seeds = {
        tuple(engine.generate([GenerateItem((4, 5, 6), 12, 1.0, frozenset(), s)]).answers[0].token_ids)
        for s in range(5)
    }
    assert len(seeds) == 5


def test_sampling_follows_the_distribution(engine: TransformersEngine, naive: Naive) -> None:
    """Chi-squared of 4,000 first tokens against the model's own probabilities, the eight most probable and the rest."""
    with torch.inference_mode():
        probabilities = torch.softmax(naive.model(torch.tensor([[7, 7]])).logits[0, -1].double(), dim=-1).numpy()
    items = [GenerateItem((7, 7), 1, 1.0, frozenset(), seed) for seed in range(4000)]
    drawn = np.bincount([a.token_ids[0] for a in engine.generate(items).answers], minlength=262)
    top = np.argsort(-probabilities)[:8]
    expected = np.append(probabilities[top], 1 - probabilities[top].sum()) * 4000
    observed = np.append(drawn[top], 4000 - drawn[top].sum())
    assert ((observed - expected) ** 2 / expected).sum() < 26.1  # 99.9th percentile at 8 degrees of freedom


def test_bfloat16_stays_near(checkpoint: Path, naive: Naive) -> None:
    engine = TransformersEngine(TeacherSettings(path=str(checkpoint), dtype="bfloat16"))
    pairs = ragged(np.random.default_rng(2), 5)
    for (prompt, responses), answer in zip(pairs, engine.score(items_of(pairs)).answers, strict=True):
        for response, score in zip(responses, answer, strict=True):
            assert score.logprobs.dtype == np.float32
            assert np.abs(score.logprobs - naive.logprobs(prompt, response)).mean() < 0.1


def test_unusable_checkpoints_are_told_in_a_sentence(tmp_path: Path) -> None:
    def problem(folder: Path) -> str:
        with pytest.raises(UserError) as error:
            TransformersEngine(TeacherSettings(path=str(folder)))
        assert str(error.value).startswith(f"teacher.path {folder}")
        return str(error.value)

    assert "there is no such folder" in problem(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in problem(tmp_path / "empty")

    garbled = make_teacher(tmp_path / "garbled")
    (garbled / "config.json").write_text("{")
    assert "config.json: is no JSON" in problem(garbled)

    wordless = make_teacher(tmp_path / "wordless")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (wordless / name).unlink()
    assert "holds no tokenizer" in problem(wordless)

    weightless = make_teacher(tmp_path / "weightless")
    (weightless / "model.safetensors").unlink()
    assert "holds no safetensors file" in problem(weightless)

    lacking, broken = make_teacher(tmp_path / "lacking"), make_teacher(tmp_path / "broken")
    tensors = load_file(lacking / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 tensors, such as model.layers.1.mlp.up_proj.weight" in problem(lacking)

    tensors = load_file(broken / "model.safetensors")
    tensors["lm_head.weight"][:] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert "not finite" in problem(broken)

    assert "cannot be loaded as a causal language model" in problem(make_student(tmp_path / "speech"))

    larger = make_teacher(tmp_path / "larger")
    tokenizer = make_tokenizer(extra_special="<|one_more|>")
    tokenizer.save_pretrained(larger)
    assert "its tokenizer has 263 tokens, its model 262" in problem(larger)
