"""The objective against an obvious float64 reference, and its estimator against the exact KL gradient."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.objective import references
from xopd.objective import Totals, advantages, combine_modalities, modality_loss, token_logprobs


def random_case(seed, responses=5, tokens=7):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, tokens + 1, responses)
    policy, behaviour, teacher = (torch.tensor(-rng.exponential(1.5, (responses, tokens))) for _ in range(3))
    mask = torch.arange(tokens)[None, :] < torch.tensor(lengths)[:, None]
    return policy, behaviour, teacher, mask, lengths


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    aggregation=st.sampled_from(["sequence_mean", "token_mean"]),
    clamp=st.sampled_from([None, 0.5, 5.0]),
    truncation=st.sampled_from([None, (0.2, 5.0)]),
    ratio_mask=st.sampled_from([None, (0.25, 4.0)]),
)
def test_equals_the_reference(seed, aggregation, clamp, truncation, ratio_mask):
    """Value, gradient, and which tokens a limit touched."""
    policy, behaviour, teacher, mask, lengths = random_case(seed)
    policy.requires_grad_()
    terms = modality_loss(policy, behaviour, teacher, mask, aggregation, clamp, truncation, ratio_mask)
    terms.loss.backward()
    loss, slopes, clipped = references.modality(
        policy.tolist(), behaviour.tolist(), teacher.tolist(), lengths.tolist(),
        aggregation, clamp, truncation, ratio_mask,
    )  # fmt: skip
    assert float(terms.loss.detach()) == pytest.approx(loss, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(policy.grad, torch.tensor(slopes, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert terms.clipped.tolist() == clipped


def test_a_masked_ratio_counts_as_zero_and_stays_in_the_mean():
    policy = torch.tensor([[-1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    behaviour = policy.detach() - torch.tensor([[0.0, 3.0]])
    terms = modality_loss(policy, behaviour, torch.zeros(1, 2), torch.ones(1, 2), ratio_mask=(0.1, 10.0))
    terms.loss.backward()
    assert float(terms.loss.detach()) == -0.5
    assert policy.grad.tolist() == [[-0.5, 0.0]]
    assert terms.clipped.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean"])
def test_micro_batches_permutation_and_padding_change_nothing(aggregation):
    policy, behaviour, teacher, mask, lengths = random_case(3, responses=6)
    whole = modality_loss(policy, behaviour, teacher, mask, aggregation).loss
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    shuffled = modality_loss(policy[order], behaviour[order], teacher[order], mask[order], aggregation).loss
    parts = sum(
        modality_loss(
            policy[rows], behaviour[rows], teacher[rows], mask[rows], aggregation,
            totals=Totals(6, int(lengths.sum())),
        ).loss
        for rows in (slice(0, 2), slice(2, 6))
    )  # fmt: skip
    padded = [torch.nn.functional.pad(x, (0, 4), value=float("-inf")) for x in (policy, behaviour, teacher)]
    padded[0].requires_grad_()
    wide = modality_loss(*padded, torch.nn.functional.pad(mask, (0, 4)), aggregation).loss
    wide.backward()
    assert torch.isfinite(padded[0].grad).all()
    assert float(padded[0].grad[:, -4:].abs().max()) == 0.0
    for other in (shuffled, parts, wide):
        torch.testing.assert_close(other, whole, rtol=1e-12, atol=1e-12)


def test_no_gradient_through_the_advantage():
    policy = torch.tensor([[-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[-0.5, -3.0]], dtype=torch.float64)
    modality_loss(policy, policy.detach(), teacher, torch.ones(1, 2)).loss.backward()
    # On-policy ρ = 1 and dρ/d(log π_θ) = 1: the gradient is -A_t / T.
    torch.testing.assert_close(policy.grad, -(teacher - policy.detach()) / 2)


def test_student_equal_to_teacher_has_no_gradient():
    policy = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    terms = modality_loss(policy, policy.detach(), policy.detach(), torch.ones(4, 6))
    terms.loss.backward()
    assert float(terms.advantage.abs().max()) == 0.0
    assert float(policy.grad.abs().max()) == 0.0


def test_mean_gradient_is_the_exact_kl_gradient():
    """E[∇L] over enumerated one-token responses equals ∇ KL(π_θ || π_T), and sampling agrees within its error."""
    generator = torch.Generator().manual_seed(5)
    vocabulary = 6
    theta = torch.randn(vocabulary, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.log_softmax(torch.randn(vocabulary, dtype=torch.float64, generator=generator), -1)

    logprobs = torch.log_softmax(theta, -1)
    kl = (logprobs.exp() * (logprobs - teacher)).sum()
    (exact,) = torch.autograd.grad(kl, theta)

    gradients = []
    for y in range(vocabulary):
        chosen = token_logprobs(theta, torch.tensor(y)).reshape(1, 1)
        loss = modality_loss(chosen, chosen.detach(), teacher[y].reshape(1, 1), torch.ones(1, 1)).loss
        gradients.append(torch.autograd.grad(loss, theta)[0])
    gradients = torch.stack(gradients)
    weights = torch.softmax(theta.detach(), -1)
    enumerated = (weights[:, None] * gradients).sum(0)
    torch.testing.assert_close(enumerated, exact, rtol=1e-10, atol=1e-12)

    n = 40_000
    drawn = gradients[torch.multinomial(weights, n, replacement=True, generator=generator)]
    error = drawn.std(0) / math.sqrt(n)
    assert torch.all((drawn.mean(0) - exact).abs() < 4.5 * error)


def test_sequence_gradient_by_enumeration():
    """Two-token sequences: the per-token estimator's mean is the gradient of each token's KL, prefix fixed."""
    generator = torch.Generator().manual_seed(9)
    v = 3
    theta = torch.randn(1 + v, v, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.log_softmax(torch.randn(1 + v, v, dtype=torch.float64, generator=generator), -1)
    probabilities = torch.log_softmax(theta, -1).exp().detach()

    estimate = torch.zeros_like(theta)
    for a, b in itertools.product(range(v), repeat=2):
        rows, chosen = torch.tensor([0, 1 + a]), torch.tensor([a, b])
        policy = token_logprobs(theta[rows], chosen).reshape(1, 2)
        loss = modality_loss(policy, policy.detach(), teacher[rows, chosen].reshape(1, 2), torch.ones(1, 2)).loss
        estimate += probabilities[0, a] * probabilities[1 + a, b] * torch.autograd.grad(loss, theta)[0]

    logprobs = torch.log_softmax(theta, -1)
    kl = (logprobs.exp() * (logprobs - teacher)).sum(-1)
    expected_kl = (kl[0] + (probabilities[0] * kl[1:]).sum()) / 2
    (exact,) = torch.autograd.grad(expected_kl, theta)
    torch.testing.assert_close(estimate, exact, rtol=1e-10, atol=1e-12)


def test_lambda_combines_and_reduces():
    loss_in, loss_cross = torch.tensor(2.0), torch.tensor(4.0)
    assert float(combine_modalities(loss_in, loss_cross, 0.5)) == 3.0
    assert float(combine_modalities(loss_in, None, 0.0)) == 2.0
    assert float(combine_modalities(None, loss_cross, 1.0)) == 4.0
    assert float(combine_modalities(loss_in, loss_cross, 0.25)) == 2.5
    with pytest.raises(ValueError, match="neither"):
        combine_modalities(None, None, 0.5)


def test_advantage_sign():
    """A token that the teacher likes more than the student has a positive advantage."""
    assert float(advantages(torch.tensor(-0.1), torch.tensor(-2.0))) > 0


def test_entropy_and_logprobs():
    logits = torch.zeros(2, 8)
    torch.testing.assert_close(references.entropy(logits), torch.full((2,), math.log(8)))
    torch.testing.assert_close(token_logprobs(logits, torch.tensor([1, 5])), torch.full((2,), -math.log(8)))
