"""The learner against plain transformers, and what must not change its result."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from transformers import Qwen2AudioForConditionalGeneration, Qwen2ForCausalLM
from xopd_trainer.batch import ScoredTrajectory
from xopd_trainer.learner import FrozenPartChangedError

from tests.unit.trainer.groups import batch, make_group, make_learner, scored
from xopd.v1 import trajectory_pb2 as pb


def naive_logprobs(path, family, group):
    """One response at a time, the whole sequence, the audio through the tower with its full window."""
    model = Qwen2AudioForConditionalGeneration.from_pretrained(path).eval()
    found = []
    for row in group.trajectories:
        inputs = {}
        if group.audio is not None:
            wave, _ = soundfile.read(group.audio[0], dtype="float32")
            text = family.tokenizer.decode(group.prompt_token_ids)
            inputs = dict(family.processor(text=text, audio=[wave], sampling_rate=16000, return_tensors="pt"))
            prompt = inputs.pop("input_ids")[0].tolist()
            inputs.pop("attention_mask")
        else:
            prompt = list(group.prompt_token_ids)
        ids = torch.tensor([[*prompt, *row.token_ids]])
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[0]
        logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1].float(), -1)
        found.append(logprobs[torch.arange(len(row.token_ids)), torch.as_tensor(row.token_ids)].numpy())
    return found


@pytest.mark.parametrize("modality", [pb.MODALITY_TEXT, pb.MODALITY_SPEECH])
def test_logprobs_equal_plain_transformers(config, family, features, clips, checkpoints, modality):
    learner = make_learner(config, family, features)
    for seed, clip in enumerate(clips):
        group = make_group(family, modality, clip, seed)
        for ours, theirs in zip(learner.logprobs(group), naive_logprobs(checkpoints[0], family, group), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


def weights_after(config, family, features, groups, **changes):
    learner = make_learner(config.model_copy(update=changes), family, features)
    result = learner.step(1, groups)
    return result, learner.trained_state()


def assert_same(a, b, tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=0)


def test_micro_batches_and_order_change_nothing(config, family, features, clips):
    groups = batch(family, clips)
    whole, reference = weights_after(config, family, features, groups)
    one_by_one = config.trainer.model_copy(update={"micro_batch_groups": 1})
    split, other = weights_after(config, family, features, groups[::-1], trainer=one_by_one)
    assert split.loss == pytest.approx(whole.loss, rel=1e-5)
    assert split.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    # Adam divides by the gradient's own size: where that is nearly 0, rounding is amplified up to the step size.
    assert_same(reference, other, 1e-4)


def test_the_same_step_twice_gives_the_same_bits(config, family, features, clips):
    groups = batch(family, clips)
    _, first = weights_after(config, family, features, groups)
    _, second = weights_after(config, family, features, groups)
    assert_same(first, second, 0.0)


@pytest.mark.parametrize(("lambda_", "kept"), [(0.0, pb.MODALITY_TEXT), (1.0, pb.MODALITY_SPEECH)])
def test_lambda_reduces_to_one_modality_bit_for_bit(config, family, features, clips, lambda_, kept):
    groups = batch(family, clips)
    objective = config.objective.model_copy(update={"lambda_": lambda_})
    _, both = weights_after(config, family, features, groups, objective=objective)
    alone = [g for g in groups if g.modality == kept]
    _, one = weights_after(config, family, features, alone, objective=objective)
    assert_same(both, one, 0.0)


def teacher_scores(path, group):
    model = Qwen2ForCausalLM.from_pretrained(path).eval()
    rows = []
    for row in group.trajectories:
        ids = torch.tensor([[*group.prompt_token_ids, *row.token_ids]])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids).logits[0, len(group.prompt_token_ids) - 1 : -1], -1)
        chosen = logprobs[torch.arange(len(row.token_ids)), torch.as_tensor(row.token_ids)].numpy()
        rows.append(ScoredTrajectory(row.token_ids, chosen, scored(chosen), False, 0))
    return replace(group, trajectories=tuple(rows))


def test_student_equal_to_teacher_has_advantage_zero(config, family, features, clips, checkpoints):
    groups = [teacher_scores(checkpoints[1], make_group(family, pb.MODALITY_TEXT, None, seed)) for seed in range(3)]
    learner = make_learner(config, family, features)
    result = learner.step(1, groups)
    assert float(np.abs(result.signals["text"].advantage_values()).max()) < 1e-5
    assert result.grad_norm < 1e-5


def test_frozen_parts_stay_and_a_change_is_noticed(config, family, features, clips):
    learner = make_learner(config, family, features)
    before = {n: t.clone() for n, t in family.hub_state(learner.policy).items()}
    learner.step(1, batch(family, clips))
    learner.assert_frozen()
    after = family.hub_state(learner.policy)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == family.is_frozen(name), name
    with torch.no_grad():
        learner.policy.model.multi_modal_projector.linear.bias[0] += 1e-7
    with pytest.raises(FrozenPartChangedError):
        learner.assert_frozen()


def test_a_loss_that_is_not_finite_changes_nothing(config, family, features):
    group = make_group(family, pb.MODALITY_TEXT, None, 1)
    group.trajectories[0].teacher.logprobs[0] = np.nan
    learner = make_learner(config, family, features)
    before = learner.trained_state()
    result = learner.step(1, [group])
    assert result.skipped
    assert_same(before, learner.trained_state(), 0.0)


def test_clips_are_encoded_once(config, family, features, clips):
    learner = make_learner(config, family, features)
    for step in (1, 2):
        learner.step(step, batch(family, clips))
    assert features.encoded == len(clips)
