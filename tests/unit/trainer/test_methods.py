"""Every method: what must not change its gradient, what must not change a bit, and when there is nothing to learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from xopd_trainer.batch import collate_responses
from xopd_trainer.methods import PolicyReadout, make_method

from tests.unit.objective.references import entropy, policy_buckets
from tests.unit.trainer.groups import (
    ALL_TOKENS,
    CASES,
    backwards,
    batch,
    make_group,
    make_learner,
    optimiser_state,
    trained_state,
    with_objective,
)
from tests.unit.trainer.naive import PlainTeacher
from xopd.objective import TeacherTop, Totals, token_logprobs
from xopd.v1 import trajectory_pb2 as pb

EVERY = pytest.mark.parametrize("case", CASES)


def gradients_after_a_step(config, family, features, groups):
    learner = make_learner(config, family, features)
    result = learner.step(1, groups)
    return result, {name: parameter.grad for name, parameter in learner.trained.items()}


@EVERY
def test_order_and_micro_batches_change_nothing(config, family, features, clips, case):
    objective, options = CASES[case]
    groups = batch(family, clips, **options)
    unclipped = {"max_grad_norm": None}
    whole, reference = gradients_after_a_step(
        with_objective(config, objective, optimiser=unclipped), family, features, groups
    )
    assert whole.grad_norm > 0.01
    singly = with_objective(config, objective, optimiser=unclipped, trainer={"micro_batch_groups": 1})
    split, other = gradients_after_a_step(singly, family, features, backwards(groups))
    assert (split.loss, split.loss_in, split.loss_cross) == pytest.approx(
        (whole.loss, whole.loss_in, whole.loss_cross), rel=1e-5, abs=1e-6
    )
    difference = sum(float((reference[n] - other[n]).pow(2).sum()) for n in reference) ** 0.5
    assert difference < 1e-5 * whole.grad_norm


def widened(tensor, columns, fill):
    return torch.cat([tensor, torch.full((tensor.shape[0], columns, *tensor.shape[2:]), fill, dtype=tensor.dtype)], 1)


@EVERY
def test_wider_padding_changes_nothing_whatever_it_holds(config, family, clips, case):
    objective, options = CASES[case]
    method = make_method(with_objective(config, objective), family.vocabulary.size)
    # A micro-batch is of one source: mixed cases are padded as their sampled half.
    groups = [g for g in batch(family, clips, **options) if g.sampled or case in ("sft", "offline_kd")]
    narrow = collate_responses(groups)
    top = narrow.teacher_top
    wide = replace(
        narrow,
        token_ids=widened(narrow.token_ids, 3, 7),
        mask=widened(narrow.mask, 3, False),
        behaviour_logprobs=None if narrow.behaviour_logprobs is None else widened(narrow.behaviour_logprobs, 3, -60.0),
        teacher_logprobs=None if narrow.teacher_logprobs is None else widened(narrow.teacher_logprobs, 3, -60.0),
        teacher_top=top
        and TeacherTop(
            widened(top.token_ids, 3, 0), widened(top.logprobs, 3, -60.0), widened(top.tail_logprobs, 3, -60.0)
        ),
    )
    rows, tokens = narrow.token_ids.shape
    values = torch.randn(rows, tokens, family.vocabulary.size, generator=torch.Generator().manual_seed(0))
    losses, gradients = [], []
    for responses, logits in ((narrow, values), (wide, widened(values, 3, 50.0))):
        logits = logits.clone().requires_grad_()
        top = responses.teacher_top
        buckets = None if top is None else policy_buckets(logits, top.token_ids)
        policy = PolicyReadout(token_logprobs(logits, responses.token_ids), buckets, entropy(logits), None)
        loss = method.loss(policy, responses, Totals(rows, int(narrow.mask.sum()))).loss
        losses.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, logits)[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    torch.testing.assert_close(gradients[1][:, :tokens], gradients[0], rtol=1e-5, atol=1e-8)
    assert float(gradients[1][:, tokens:].abs().max()) == 0.0
    assert float(gradients[0][~narrow.mask].abs().sum()) == 0.0


def test_responses_are_padded_to_the_longest_with_zeros(family, clips):
    groups = batch(family, clips, top_k=5)
    rows = [row for group in groups for row in group.trajectories]
    found = collate_responses(groups)
    assert found.teacher_top is not None
    longest = max(len(row.token_ids) for row in rows)
    assert found.per_group == (3,) * 6 and found.mask.shape == (18, longest) and found.mask.dtype == torch.bool
    fields = {
        found.token_ids: (torch.int64, lambda row: row.token_ids),
        found.behaviour_logprobs: (torch.float32, lambda row: row.behaviour_logprobs),
        found.teacher_logprobs: (torch.float32, lambda row: row.teacher.logprobs),
        found.teacher_top.token_ids: (torch.int64, lambda row: row.teacher.top_token_ids),
        found.teacher_top.logprobs: (torch.float32, lambda row: row.teacher.top_logprobs),
        found.teacher_top.tail_logprobs: (torch.float32, lambda row: row.teacher.tail_logprobs),
    }
    for tensor, (dtype, values) in fields.items():
        assert tensor.dtype == dtype and tensor.is_contiguous()
        for i, row in enumerate(rows):
            n = len(row.token_ids)
            assert tensor[i, :n].tolist() == values(row).tolist()
            assert not tensor[i, n:].any()
            assert found.mask[i].tolist() == [True] * n + [False] * (longest - n)


@EVERY
def test_the_same_run_twice_gives_the_same_bits(config, family, features, clips, case):
    objective, options = CASES[case]
    runs = []
    for _ in range(2):
        learner = make_learner(with_objective(config, objective), family, features)
        before = trained_state(learner)
        for step in (1, 2, 3):
            learner.step(step, batch(family, clips, **options))
        state = trained_state(learner)
        assert not torch.equal(before["language_model.lm_head.weight"], state["language_model.lm_head.weight"])
        runs.append({**state, **optimiser_state(learner)})
    first, second = runs
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@EVERY
@pytest.mark.parametrize(("lambda_", "kept"), [(0.0, pb.MODALITY_TEXT), (1.0, pb.MODALITY_SPEECH)])
def test_lambda_reduces_to_one_modality_bit_for_bit(config, family, features, clips, case, lambda_, kept):
    objective, options = CASES[case]
    groups = batch(family, clips, **options)
    changed = with_objective(config, {**objective, "lambda_": lambda_})
    both, alone = (make_learner(changed, family, features) for _ in range(2))
    result = both.step(1, groups)
    only = alone.step(1, [g for g in groups if g.modality == kept])
    assert result.loss == only.loss == (result.loss_in if kept == pb.MODALITY_TEXT else result.loss_cross)
    first, second = trained_state(both), trained_state(alone)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("objective", "top_k"),
    [
        ({}, 0),
        ({"kl_estimator": "top_k", "top_k": 5}, 5),
        ({"kl_estimator": "full"}, ALL_TOKENS),
        *(({"method": "gkd", "beta": beta, "top_k": 5}, 5) for beta in (0.0, 0.1, 0.5, 0.9, 1.0)),
        *(({"method": "gkd", "beta": beta, "top_k": 261}, ALL_TOKENS) for beta in (0.0, 0.5, 1.0)),
    ],
    ids=str,
)
def test_a_student_equal_to_the_teacher_learns_nothing(config, family, features, checkpoints, objective, top_k):
    """Also from responses that are neither's own, where the method takes them."""
    teacher = PlainTeacher(checkpoints[1])
    groups = [make_group(family, pb.MODALITY_TEXT, None, seed) for seed in range(3)]
    if objective.get("method") == "gkd":
        groups.append(make_group(family, pb.MODALITY_TEXT, None, 3, sampled=False))
    # Adam with so large an epsilon steps by the gradient itself.
    plain = {"epsilon": 1.0, "learning_rate": 1.0, "max_grad_norm": None}
    learner = make_learner(with_objective(config, objective, optimiser=plain), family, features)
    before = trained_state(learner)
    result = learner.step(1, [teacher.score(group, top_k, on_policy=True) for group in groups])
    assert float(np.abs(result.signals["text"].advantage_values()).max()) < 1e-5
    assert not result.skipped
    assert result.grad_norm < 1e-5
    assert abs(result.loss) < 1e-5
    after = trained_state(learner)
    assert max(float((after[name] - before[name]).abs().max()) for name in before) < 1e-5
