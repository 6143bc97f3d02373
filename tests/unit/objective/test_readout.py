"""The chunked read-out against whole tensors, in float64: values and gradients, for every chunk size."""

from __future__ import annotations

import pytest
import torch

from tests.unit.objective.references import entropy, policy_buckets, top_k_overlap, top_of
from xopd.objective import Head, kl_between, kl_divergence, read_tokens, read_top, token_logprobs

TOKENS, VOCABULARY, HIDDEN, K = 13, 29, 7, 4


@pytest.fixture
def at():
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(VOCABULARY, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(VOCABULARY, (TOKENS,))
    named = torch.stack([torch.randperm(VOCABULARY)[:K] for _ in range(TOKENS)])
    return hidden, weight, bias, tokens, named


CHUNKS = pytest.mark.parametrize("chunk", [1, 2, 5, 12, 13, 100, None])


@CHUNKS
@pytest.mark.parametrize("biased", [True, False])
def test_values(at, chunk, biased) -> None:
    hidden, weight, bias, tokens, named = at
    head = Head(weight, bias if biased else None)
    read = read_tokens(head, hidden, tokens, named, named, chunk)
    logits = head.logits(hidden)
    torch.testing.assert_close(read.logprobs, token_logprobs(logits, tokens))
    torch.testing.assert_close(read.entropy, entropy(logits))
    torch.testing.assert_close(read.buckets, policy_buckets(logits, named))
    assert torch.equal(read.overlap, top_k_overlap(logits[None], named[None])[0].double())
    torch.testing.assert_close(read.buckets.exp().sum(-1), torch.ones(TOKENS, dtype=torch.float64))
    assert not read.entropy.requires_grad and not read.overlap.requires_grad


@CHUNKS
@pytest.mark.parametrize("biased", [True, False])
def test_gradients(at, chunk, biased) -> None:
    hidden, weight, bias, tokens, named = at
    inputs = [hidden, weight, *([bias] if biased else [])]
    head = Head(weight, bias if biased else None)
    of_logprobs, of_buckets = torch.randn(TOKENS).double(), torch.randn(TOKENS, K + 1).double()
    read = read_tokens(head, hidden, tokens, named, None, chunk)
    ours = torch.autograd.grad((read.logprobs * of_logprobs).sum() + (read.buckets * of_buckets).sum(), inputs)
    logits = head.logits(hidden)
    whole = (token_logprobs(logits, tokens) * of_logprobs).sum() + (policy_buckets(logits, named) * of_buckets).sum()
    for mine, theirs in zip(ours, torch.autograd.grad(whole, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_gradients_by_finite_differences(at) -> None:
    hidden, weight, bias, tokens, named = at
    assert torch.autograd.gradcheck(
        lambda *three: [
            part for part in vars(read_tokens(Head(*three[1:]), three[0], tokens, named, None, 5)).values()
            if part is not None and part.requires_grad
        ],
        (hidden, weight, bias),
    )  # fmt: skip


def test_only_what_is_trained_gets_a_gradient(at) -> None:
    hidden, weight, _, tokens, _ = at
    frozen = read_tokens(Head(weight.detach()), hidden, tokens)
    (gradient,) = torch.autograd.grad(frozen.logprobs.sum(), [hidden])
    assert gradient.shape == hidden.shape
    head_alone = read_tokens(Head(weight), hidden.detach(), tokens)
    (gradient,) = torch.autograd.grad(head_alone.logprobs.sum(), [weight])
    assert gradient.shape == weight.shape
    assert frozen.buckets is None and frozen.overlap is None


def test_a_certain_policy_has_finite_gradients() -> None:
    """Where the named tokens hold all the mass that float32 can tell, the tail's gradient is finite still."""
    hidden = torch.tensor([[200.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [-1.2]], requires_grad=True)
    read = read_tokens(Head(weight), hidden, torch.tensor([0]), torch.tensor([[0]]))
    assert read.buckets is not None and read.buckets[0, 0].item() == 0.0
    for gradient in torch.autograd.grad(read.buckets.sum() + read.logprobs.sum(), [hidden, weight]):
        assert gradient.isfinite().all()


def test_bfloat16_is_read_in_float32_and_summed_in_it(at) -> None:
    hidden, weight, _, tokens, named = (each.detach() for each in at)
    low_hidden, low_weight = (each.bfloat16().requires_grad_() for each in (hidden, weight))
    read = read_tokens(Head(low_weight), low_hidden, tokens, named, None, 2)
    assert read.logprobs.dtype == read.entropy.dtype == torch.float32
    gradients = torch.autograd.grad(read.logprobs.sum(), [low_hidden, low_weight])
    assert [each.dtype for each in gradients] == [torch.bfloat16] * 2
    logits = torch.nn.functional.linear(low_hidden, low_weight)
    whole = torch.autograd.grad(token_logprobs(logits, tokens).sum(), [low_hidden, low_weight])
    for mine, theirs in zip(gradients, whole, strict=True):
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=0.05, atol=0.05)


@CHUNKS
def test_kl_between_two_prompts(at, chunk) -> None:
    hidden, weight, bias, _, _ = at
    head, other = Head(weight, bias), torch.randn_like(hidden)
    whole = kl_divergence(*(torch.log_softmax(head.logits(each), dim=-1) for each in (hidden, other)))
    found = kl_between(head, hidden, other, chunk)
    torch.testing.assert_close(found, whole.detach())
    assert not found.requires_grad
    assert kl_between(head, hidden[:0], other[:0], chunk).shape == (0,)


@CHUNKS
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("k", [0, 1, K, VOCABULARY - 1])
def test_the_most_probable_tokens(at, chunk, biased, k) -> None:
    hidden, weight, bias, tokens, _ = at
    head = Head(weight, bias if biased else None)
    read = read_top(head, hidden, tokens, k, chunk)
    logits = head.logits(hidden)
    expected = top_of(torch.log_softmax(logits, dim=-1), k)
    assert torch.equal(read.top_token_ids, expected.token_ids)
    torch.testing.assert_close(read.buckets, expected.buckets())
    torch.testing.assert_close(read.logprobs, token_logprobs(logits, tokens))
    assert not read.logprobs.requires_grad and not read.buckets.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_learner_and_teacher_read_the_same(at, dtype) -> None:
    """Up to rounding in the last place: equal models have no advantage."""
    hidden, weight, bias, tokens, _ = (each.detach().to(dtype) if each.is_floating_point() else each for each in at)
    head = Head(weight, bias)
    top = read_top(head, hidden, tokens, K, 5)
    read = read_tokens(head, hidden, tokens, top.top_token_ids, None, 5)
    torch.testing.assert_close(top.logprobs, read.logprobs)
    torch.testing.assert_close(top.buckets, read.buckets)


def test_padding_of_the_head_has_no_mass(at) -> None:
    hidden, weight, bias, tokens, _ = at
    tokens = tokens % 20
    padded, cut = Head(weight, bias).first(20), Head(weight[:20].clone(), bias[:20].clone())
    torch.testing.assert_close(padded.logits(hidden), cut.logits(hidden))
    assert read_top(padded, hidden, tokens, 19).top_token_ids.max() < 20


def test_no_tokens(at) -> None:
    hidden, weight, _, tokens, named = at
    read = read_tokens(Head(weight), hidden[:0], tokens[:0], named[:0], named[:0])
    assert read.logprobs.shape == read.entropy.shape == (0,) and read.buckets is not None
    assert read.buckets.shape == (0, K + 1)
