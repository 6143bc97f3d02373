"""The estimators' mean gradients against exact KL gradients, by enumeration; what the closed form saves in variance."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.objective.references import (
    buckets,
    clamped_mass,
    expected_gain,
    mean,
    policy_buckets,
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
    token_logprobs,
)

V = 5
ONE = torch.ones(1, 1)


def expected_loss(logits, top, *options, **named):
    return expected_modality_loss(policy_buckets(logits, top.token_ids), top, *options, **named)


def gradient(value, logits):
    return torch.autograd.grad(value, logits)[0]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, V - 1),
    clamp=st.sampled_from([None, 1e-9, 0.5, 2.0, 100.0]),
    aggregation=st.sampled_from(["sequence_mean", "token_mean"]),
    cut=st.integers(1, 3),
)
def test_loss_and_clipped_share_are_those_of_the_loops_and_of_the_micro_batches(seed, k, clamp, aggregation, cut):
    logits, teacher = random_distributions(seed, 4, 3, V)
    logits.requires_grad_()
    lengths, mask = random_lengths(seed, 4, 3)
    top = top_of(teacher, k)
    gains, clipped = [], []
    for i in range(4):
        ours, theirs = (
            [buckets(p, top.token_ids[i, t].tolist()) for t, p in enumerate(rows)]
            for rows in ([softmax(r) for r in logits[i].tolist()], teacher[i].exp().tolist())
        )
        pairs = list(zip(ours, theirs, strict=True))
        gains.append([expected_gain(*pair, clamp) for pair in pairs])
        clipped.append([clamped_mass(*pair, clamp) if t < lengths[i] else 0.0 for t, pair in enumerate(pairs)])
    terms = expected_loss(logits, top, mask, aggregation, clamp)
    assert float(terms.loss.detach()) == pytest.approx(-mean(gains, lengths, aggregation), rel=1e-10, abs=1e-12)
    assert not terms.clipped.requires_grad
    torch.testing.assert_close(terms.clipped, torch.tensor(clipped, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert float(terms.clipped.min()) >= 0.0 and float(terms.clipped.max()) <= 1.0

    totals = Totals(4, sum(lengths))
    parts = [
        expected_loss(logits[s], top_of(teacher[s], k), mask[s], aggregation, clamp, totals)
        for s in (slice(0, cut), slice(cut, 4))
    ]
    assert float(sum(p.loss for p in parts).detach()) == pytest.approx(float(terms.loss.detach()), rel=1e-10, abs=1e-12)
    assert torch.equal(torch.cat([part.clipped for part in parts]), terms.clipped)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_all_clipped_is_a_share_of_one(dtype):
    """Also where rounding takes the sum of the buckets above 1."""
    logits = torch.randn(50, 4, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    top = top_of(torch.log_softmax(torch.full((50, 4, 300), 0.0), -1), 299)
    clipped = expected_loss(logits, top, torch.ones(50, 4), advantage_clamp=1e-12).clipped
    assert float(clipped.max()) <= 1.0
    torch.testing.assert_close(clipped, torch.ones(50, 4))


def test_padding_is_never_clipped_whatever_it_holds():
    logits, teacher = random_distributions(3, 1, 3, V)
    logits[0, 2] = torch.tensor([60.0, -60.0, 0.0, math.inf, -math.inf])
    mask = torch.tensor([[True, True, False]])
    clipped = expected_loss(logits, top_of(teacher, 2), mask, advantage_clamp=1e-6).clipped
    assert clipped[0, 2] == 0.0
    assert float(clipped[0, :2].min()) > 0.0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, V - 1))
def test_its_gradient_is_that_of_the_reverse_kl_over_buckets(seed, k):
    """The advantage is held constant and still the gradient is whole: Σ ∇π = 0. For k = V - 1 it is the full KL's."""
    logits, teacher = random_distributions(seed, 1, 2, V)
    logits.requires_grad_()
    top = top_of(teacher, k)
    ours = gradient(expected_loss(logits, top, torch.ones(1, 2)).loss, logits)
    bucketed = kl_divergence(policy_buckets(logits, top.token_ids), top.buckets()).mean()
    torch.testing.assert_close(ours, gradient(bucketed, logits), rtol=1e-9, atol=1e-12)
    full = gradient(kl_divergence(torch.log_softmax(logits, -1), teacher).mean(), logits)
    assert torch.allclose(ours, full, rtol=1e-9, atol=1e-12) == (k == V - 1)


def test_autograd_agrees_with_finite_differences():
    logits, teacher = random_distributions(8, 2, 3, V)
    top, (_, mask) = top_of(teacher, 3), random_lengths(8, 2, 3)
    assert torch.autograd.gradcheck(lambda x: expected_loss(x, top, mask).loss, logits.requires_grad_())


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
    exact = gradient(expected_loss(logits, top_of(teacher, V - 1), ONE, advantage_clamp=clamp).loss, logits)
    torch.testing.assert_close(average, exact, rtol=1e-10, atol=1e-12)
    unclamped = gradient(expected_loss(logits, top_of(teacher, V - 1), ONE).loss, logits)
    assert torch.allclose(exact, unclamped) == (clamp is None)


@pytest.mark.parametrize("clamp", [None, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_off_policy_samples_weighed_by_the_ratio_give_the_on_policy_gradient(seed, clamp):
    """By enumeration under π_b ≠ π_θ, and by a sample from π_b within its error."""
    logits, behaviour, teacher = one_position(seed)
    gradients = torch.stack([sampled_gradient(logits, behaviour, teacher, y, clamp).flatten() for y in range(V)])
    weights = behaviour.exp().flatten()
    exact = gradient(expected_loss(logits, top_of(teacher, V - 1), ONE, advantage_clamp=clamp).loss, logits)
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
            gradient(expected_loss(theta[rows][None], top_of(teacher_here, v - 1), mask).loss, theta).flatten()
        )
        weights.append(probabilities[0, a] * probabilities[1 + a, b])
    weights = torch.stack(weights)
    (mean_s, spread_s), (mean_e, spread_e) = (_moments(weights, torch.stack(x)) for x in (sampled, expected))
    torch.testing.assert_close(mean_e, mean_s, rtol=1e-10, atol=1e-12)
    assert 0 < spread_e < spread_s


def _moments(weights, gradients):
    average = weights @ gradients
    return average, float(weights @ (gradients - average).pow(2).sum(-1))
