"""The estimators' mean gradients against exact KL gradients, by enumeration; what the closed form saves in variance."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.objective.references import (
    buckets,
    expected_gain,
    mean,
    random_distributions,
    random_lengths,
    softmax,
    top_of,
)
from xopd.objective import (
    Totals,
    expected_modality_loss,
    kl_divergence,
    modality_loss,
    policy_buckets,
    token_logprobs,
)

V = 5
ONE = torch.ones(1, 1)


def gradient(value, logits):
    return torch.autograd.grad(value, logits)[0]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, V - 1),
    clamp=st.sampled_from([None, 0.5]),
    aggregation=st.sampled_from(["sequence_mean", "token_mean"]),
)
def test_the_loss_is_the_sum_of_the_loops_and_of_its_micro_batches(seed, k, clamp, aggregation):
    logits, teacher = random_distributions(seed, 4, 3, V)
    lengths, mask = random_lengths(seed, 4, 3)
    top = top_of(teacher, k)
    gains = [
        [
            expected_gain(
                buckets(softmax(logits[i, t].tolist()), top.token_ids[i, t].tolist()),
                buckets(teacher[i, t].exp().tolist(), top.token_ids[i, t].tolist()),
                clamp,
            )
            for t in range(3)
        ]
        for i in range(4)
    ]
    loss = float(expected_modality_loss(logits, top, mask, aggregation, clamp))
    assert loss == pytest.approx(-mean(gains, lengths, aggregation), rel=1e-10, abs=1e-12)
    totals = Totals(4, sum(lengths))
    parts = [
        expected_modality_loss(logits[s], top_of(teacher[s], k), mask[s], aggregation, clamp, totals)
        for s in (slice(0, 1), slice(1, 4))
    ]
    assert float(sum(parts)) == pytest.approx(loss, rel=1e-10, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, V - 1))
def test_its_gradient_is_that_of_the_reverse_kl_over_buckets(seed, k):
    """The advantage is held constant and still the gradient is whole: Σ ∇π = 0. For k = V - 1 it is the full KL's."""
    logits, teacher = random_distributions(seed, 1, 2, V)
    logits.requires_grad_()
    top = top_of(teacher, k)
    ours = gradient(expected_modality_loss(logits, top, torch.ones(1, 2)), logits)
    bucketed = kl_divergence(policy_buckets(logits, top.token_ids), top.buckets()).mean()
    torch.testing.assert_close(ours, gradient(bucketed, logits), rtol=1e-9, atol=1e-12)
    full = gradient(kl_divergence(torch.log_softmax(logits, -1), teacher).mean(), logits)
    assert torch.allclose(ours, full, rtol=1e-9, atol=1e-12) == (k == V - 1)


def test_autograd_agrees_with_finite_differences():
    logits, teacher = random_distributions(8, 2, 3, V)
    top, (_, mask) = top_of(teacher, 3), random_lengths(8, 2, 3)
    assert torch.autograd.gradcheck(lambda x: expected_modality_loss(x, top, mask), logits.requires_grad_())


def sampled_gradient(logits, behaviour, teacher, y, clamp=None):
    """∇ of the sampled estimator's loss at the one-token response y, `logits` of shape [1, 1, V]."""
    policy = token_logprobs(logits, torch.tensor([[y]]))
    chosen = [source[..., y].reshape(1, 1) for source in (behaviour, teacher)]
    return gradient(modality_loss(policy, *chosen, ONE, advantage_clamp=clamp).loss, logits)


def one_position(seed):
    logits, teacher = random_distributions(seed, 1, 1, V)
    _, behaviour = random_distributions(seed + 1, 1, 1, V)
    return logits.requires_grad_(), behaviour, teacher


@pytest.mark.parametrize("clamp", [None, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_its_gradient_is_the_sampled_estimators_mean(seed, clamp):
    """With a clamp too, where every bucket is one token: both clamp the same advantages."""
    logits, _, teacher = one_position(seed)
    on_policy = torch.log_softmax(logits.detach(), -1)
    average = sum(on_policy[0, 0, y].exp() * sampled_gradient(logits, on_policy, teacher, y, clamp) for y in range(V))
    exact = gradient(expected_modality_loss(logits, top_of(teacher, V - 1), ONE, advantage_clamp=clamp), logits)
    torch.testing.assert_close(average, exact, rtol=1e-10, atol=1e-12)
    unclamped = gradient(expected_modality_loss(logits, top_of(teacher, V - 1), ONE), logits)
    assert torch.allclose(exact, unclamped) == (clamp is None)


@pytest.mark.parametrize("clamp", [None, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_off_policy_samples_weighed_by_the_ratio_give_the_on_policy_gradient(seed, clamp):
    """By enumeration under π_b ≠ π_θ, and by a sample from π_b within its error."""
    logits, behaviour, teacher = one_position(seed)
    gradients = torch.stack([sampled_gradient(logits, behaviour, teacher, y, clamp).flatten() for y in range(V)])
    weights = behaviour.exp().flatten()
    exact = gradient(expected_modality_loss(logits, top_of(teacher, V - 1), ONE, advantage_clamp=clamp), logits)
    torch.testing.assert_close(weights @ gradients, exact.flatten(), rtol=1e-10, atol=1e-12)
    biased = torch.softmax(logits.detach().flatten(), -1) @ gradients
    assert not torch.allclose(biased, exact.flatten(), rtol=1e-2)

    n = 20_000
    drawn = gradients[torch.multinomial(weights, n, replacement=True, generator=torch.Generator().manual_seed(seed))]
    assert torch.all((drawn.mean(0) - exact.flatten()).abs() < 4.5 * drawn.std(0) / math.sqrt(n))


@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_has_the_same_mean_and_less_variance(seed):
    """Over all two-token responses of a policy whose second token depends on the first."""
    v = 3
    theta, teacher = random_distributions(seed, 1 + v, v)
    theta.requires_grad_()
    probabilities = torch.softmax(theta.detach(), -1)
    weights, sampled, expected = [], [], []
    for a, b in itertools.product(range(v), repeat=2):
        rows, y = torch.tensor([0, 1 + a]), torch.tensor([[a, b]])
        logits, teacher_here = theta[rows][None], teacher[rows][None]
        policy, mask = token_logprobs(logits, y), torch.ones(1, 2)
        theirs = teacher_here.gather(-1, y[..., None])[..., 0]
        sampled.append(gradient(modality_loss(policy, policy.detach(), theirs, mask).loss, theta).flatten())
        expected.append(
            gradient(expected_modality_loss(theta[rows][None], top_of(teacher_here, v - 1), mask), theta).flatten()
        )
        weights.append(probabilities[0, a] * probabilities[1 + a, b])
    weights = torch.stack(weights)
    (mean_s, spread_s), (mean_e, spread_e) = (_moments(weights, torch.stack(x)) for x in (sampled, expected))
    torch.testing.assert_close(mean_e, mean_s, rtol=1e-10, atol=1e-12)
    assert 0 < spread_e < spread_s


def _moments(weights, gradients):
    average = weights @ gradients
    return average, float(weights @ (gradients - average).pow(2).sum(-1))
