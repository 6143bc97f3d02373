"""Every method's loss and gradients against plain transformers and torch's own losses, on real random checkpoints."""

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from tests.unit.trainer.groups import ALL_TOKENS, SUPERVISED, batch, make_learner, with_objective
from tests.unit.trainer.naive import PlainStudent, PlainTeacher
from xopd.v1 import trajectory_pb2 as pb


def forward_kl(policy, teacher):
    return kl_div(policy, teacher, log_target=True, reduction="sum") / len(policy)


def reverse_kl(policy, teacher):
    return kl_div(teacher, policy, log_target=True, reduction="sum") / len(policy)


def jensen_shannon(policy, teacher):
    middle = ((policy.exp() + teacher.exp()) / 2).log()
    return (forward_kl(middle, teacher) + forward_kl(middle, policy)) / 2


def policy_gradient(policy, teacher, row):
    at = torch.arange(len(row.token_ids)), torch.as_tensor(row.token_ids)
    ratio = (policy[at] - torch.as_tensor(row.behaviour_logprobs)).exp()
    return -(ratio * (teacher[at] - policy[at]).detach()).mean()


def divergence(of):
    return lambda student, teacher, group, row: of(
        log_softmax(student.logits(group, row), -1), teacher.logprobs(group, row)
    )


METHODS = {
    "xopd": (
        {},
        {},
        lambda student, teacher, group, row: policy_gradient(
            log_softmax(student.logits(group, row), -1), teacher.logprobs(group, row), row
        ),
    ),
    "xopd, full": ({"kl_estimator": "full"}, {"top_k": ALL_TOKENS}, divergence(reverse_kl)),
    "gkd": ({"method": "gkd", "top_k": 261}, {"top_k": ALL_TOKENS}, divergence(forward_kl)),
    "gkd, reverse": ({"method": "gkd", "top_k": 261, "beta": 1.0}, {"top_k": ALL_TOKENS}, divergence(reverse_kl)),
    "gkd, mixed": (
        {"method": "gkd", "top_k": 261, "beta": 0.5, "on_policy_share": 0.5},
        {"top_k": ALL_TOKENS, "mixed": True},
        divergence(jensen_shannon),
    ),
    "sft": ({"method": "sft"}, SUPERVISED, lambda student, teacher, group, row: student.cross_entropy(group, row)),
    "offline_kd": (
        {"method": "offline_kd"},
        SUPERVISED,
        lambda student, teacher, group, row: student.cross_entropy(group, row),
    ),
}


def naive_mean(losses, lengths, aggregation):
    if aggregation == "sequence_mean":
        return sum(losses) / len(losses)
    return sum(loss * length for loss, length in zip(losses, lengths, strict=True)) / sum(lengths)


@pytest.mark.parametrize(
    ("name", "aggregation"),
    [*((name, "sequence_mean") for name in METHODS), *((name, "token_mean") for name in ("xopd", "gkd, mixed", "sft"))],
)
def test_loss_and_gradients_are_those_of_plain_transformers(
    config, family, features, clips, checkpoints, other_teacher, name, aggregation
):
    objective, options, naive_loss = METHODS[name]
    teacher, student = PlainTeacher(other_teacher), PlainStudent(checkpoints[0], family)
    groups = batch(family, clips, **{"n": 2, **options})
    if options is not SUPERVISED:
        groups = [teacher.score(group, options.get("top_k", 0)) for group in groups]
    learner = make_learner(
        with_objective(
            config,
            {**objective, "aggregation": aggregation, "lambda_": 0.3},
            optimiser={"max_grad_norm": None},
            trainer={"micro_batch_groups": 2},
        ),
        family,
        features,
    )
    result = learner.step(1, groups)

    by_modality = []
    for modality in (pb.MODALITY_TEXT, pb.MODALITY_SPEECH):
        rows = [(group, row) for group in groups if group.modality == modality for row in group.trajectories]
        losses = [naive_loss(student, teacher, group, row) for group, row in rows]
        by_modality.append(naive_mean(losses, [len(row.token_ids) for _, row in rows], aggregation))
    loss_in, loss_cross = by_modality
    loss = 0.7 * loss_in + 0.3 * loss_cross
    loss.backward()
    assert (result.loss, result.loss_in, result.loss_cross) == pytest.approx(
        (loss.item(), loss_in.item(), loss_cross.item()), rel=1e-4, abs=1e-5
    )
    theirs = {name: p.grad for name, p in student.model.named_parameters() if p.requires_grad}
    ours = {name: p.grad for name, p in learner.policy.named_parameters() if p.requires_grad}
    assert ours.keys() == theirs.keys()
    norm = sum(float(g.pow(2).sum()) for g in theirs.values()) ** 0.5
    assert result.grad_norm == pytest.approx(norm, rel=1e-4)
    assert sum(float((ours[n] - theirs[n]).pow(2).sum()) for n in theirs) ** 0.5 < 1e-4 * norm
