"""Buckets, divergences and overlap against Python loops; the properties that make a divergence one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.objective.references import ascends, buckets, jsd, kl, random_distributions, softmax, top_of
from xopd.objective import Head, generalised_jsd, kl_divergence, read_tokens


def policy_buckets(logits, token_ids):
    """What the read-out gives for these logits, which an identity head makes of themselves."""
    rows, k = logits.reshape(-1, logits.shape[-1]), token_ids.shape[-1]
    head = Head(torch.eye(logits.shape[-1], dtype=logits.dtype))
    read = read_tokens(head, rows, rows.new_zeros(len(rows), dtype=torch.int64), token_ids.reshape(-1, k))
    return read.buckets.reshape(*logits.shape[:-1], k + 1)


def top_k_overlap(logits, token_ids):
    """Likewise."""
    rows, k = logits.reshape(-1, logits.shape[-1]), token_ids.shape[-1]
    head = Head(torch.eye(logits.shape[-1], dtype=logits.dtype))
    first = rows.new_zeros(len(rows), dtype=torch.int64)
    return read_tokens(head, rows, first, overlap_ids=token_ids.reshape(-1, k)).overlap.reshape(logits.shape[:-1])


BETAS = pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
SEEDS = given(seed=st.integers(0, 10_000))
BRIEF = settings(max_examples=25, deadline=None)


def pair(seed, v=5):
    """Two log-distributions of shape [v]: teacher, policy."""
    logits, other = random_distributions(seed, v)
    return other, torch.log_softmax(logits, -1)


@BRIEF
@given(seed=st.integers(0, 10_000), k=st.integers(1, 6))
def test_buckets_are_the_named_tokens_and_the_rest(seed, k):
    logits, other = random_distributions(seed, 2, 3, 7)
    ids = top_of(other, k).token_ids
    ours = policy_buckets(logits, ids).exp()
    for i in range(2):
        for t in range(3):
            assert ours[i, t].tolist() == pytest.approx(buckets(softmax(logits[i, t].tolist()), ids[i, t].tolist()))


def test_a_tail_far_below_the_precision_of_one_is_kept():
    logits = torch.tensor([[[40.0, 0.0, -3.0]]])
    tail = policy_buckets(logits, torch.tensor([[[0]]]))[0, 0, 1]
    assert float(tail) == pytest.approx(math.log(1 + math.exp(-3)) - 40, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_buckets_are_computed_in_float32_at_least(dtype):
    found = policy_buckets(torch.randn(1, 2, 5).to(dtype), torch.tensor([[[0, 1], [3, 2]]]))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@BRIEF
@SEEDS
def test_kl_divergence_is_the_sum_of_the_loops(seed):
    teacher, policy = pair(seed)
    p, q = teacher.exp().tolist(), policy.exp().tolist()
    assert float(kl_divergence(teacher, policy)) == pytest.approx(kl(p, q), rel=1e-10, abs=1e-13)


@BETAS
@BRIEF
@SEEDS
def test_jsd_is_the_sum_of_the_loops(beta, seed):
    teacher, policy = pair(seed)
    expected = jsd(teacher.exp().tolist(), policy.exp().tolist(), beta)
    assert float(generalised_jsd(teacher, policy, beta)) == pytest.approx(expected, rel=1e-9, abs=1e-13)


@BRIEF
@SEEDS
def test_jsd_tends_to_forward_and_to_reverse_kl(seed):
    teacher, policy = pair(seed)
    near = 1e-6
    forward = float(generalised_jsd(teacher, policy, near)) / near
    reverse = float(generalised_jsd(teacher, policy, 1 - near)) / near
    assert forward == pytest.approx(float(kl_divergence(teacher, policy)), rel=1e-3, abs=1e-8)
    assert reverse == pytest.approx(float(kl_divergence(policy, teacher)), rel=1e-3, abs=1e-8)


@BETAS
@BRIEF
@SEEDS
def test_jsd_is_positive_zero_only_for_equals_and_symmetric(beta, seed):
    teacher, policy = pair(seed)
    value = float(generalised_jsd(teacher, policy, beta))
    assert value > 1e-9
    assert abs(float(generalised_jsd(teacher, teacher, beta))) < 1e-14
    assert float(generalised_jsd(policy, teacher, 1 - beta)) == pytest.approx(value, rel=1e-10)


@BETAS
@BRIEF
@SEEDS
def test_the_bucketed_divergence_grows_with_k_up_to_the_full_one(beta, seed):
    logits, teacher = random_distributions(seed, 1, 1, 7)
    values = []
    for k in range(1, 7):
        top = top_of(teacher, k)
        values.append(float(generalised_jsd(top.buckets(), policy_buckets(logits, top.token_ids), beta)))
    full = float(generalised_jsd(teacher, torch.log_softmax(logits, -1), beta))
    assert ascends([0.0, *values, full])
    assert values[-1] == pytest.approx(full, rel=1e-10)


@BRIEF
@given(seed=st.integers(0, 10_000), k=st.integers(1, 6))
def test_the_forward_kl_pulls_each_logit_by_the_difference_of_probabilities(seed, k):
    """∇ KL(π_T ‖ π_θ) = π_θ - π_T; tokens of the tail share the tail's pull by their share of π_θ's tail."""
    logits, teacher = random_distributions(seed, 1, 1, 7)
    logits.requires_grad_()
    top = top_of(teacher, k)
    generalised_jsd(top.buckets(), policy_buckets(logits, top.token_ids), 0.0).sum().backward()
    ours, theirs = softmax(logits.flatten().tolist()), teacher.exp().flatten().tolist()
    named = top.token_ids.flatten().tolist()
    our_tail, their_tail = (buckets(probabilities, named)[-1] for probabilities in (ours, theirs))
    expected = [
        p - q if v in named else p - their_tail * p / our_tail
        for v, (p, q) in enumerate(zip(ours, theirs, strict=True))
    ]
    assert logits.grad.flatten().tolist() == pytest.approx(expected, abs=1e-12)


@BETAS
@pytest.mark.parametrize("k", [2, 5])
def test_autograd_agrees_with_finite_differences(beta, k):
    logits, teacher = random_distributions(4, 2, 3, 6)
    top = top_of(teacher, k)

    def divergence(x):
        return generalised_jsd(top.buckets(), policy_buckets(x, top.token_ids), beta)

    assert torch.autograd.gradcheck(divergence, logits.requires_grad_())


@BRIEF
@given(seed=st.integers(0, 10_000), k=st.integers(1, 9))
def test_overlap_is_the_share_of_common_top_tokens(seed, k):
    logits, other = random_distributions(seed, 2, 3, 9)
    theirs = top_of(other, k).token_ids
    overlap = top_k_overlap(logits, theirs)
    for i in range(2):
        for t in range(3):
            row = logits[i, t].tolist()
            ours = sorted(range(9), key=lambda v, row=row: -row[v])[:k]
            assert float(overlap[i, t]) == pytest.approx(len(set(ours) & set(theirs[i, t].tolist())) / k)
