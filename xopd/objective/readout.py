"""What a model says at given tokens, read from hidden states and its output head a few tokens at a time.

With a vocabulary of 152k, the logits of 4,096 tokens are 2.5 GB in float32, and autograd keeps several tensors of that
size. Here no tensor of [tokens × vocabulary] exists beyond one chunk: the forward pass keeps two numbers a token, and
the backward pass computes the chunk's logits once more. That is four multiplications with the head where whole tensors
take three, so a third more time where they are all that counts.

`read_tokens` is the learner's, with gradient; `read_top` is the teacher's, of the tokens that it finds most probable
itself. Both name tokens, and count all others as one tail.

    z = W h + b        lse = log Σ_v exp z_v        log π(v) = z_v - lse

    forward     log π(y) = z_y - lse
                log π(bucket) = z_v - lse for each named token v;  log Σ_{v not named} exp z_v - lse for the tail
    backward    ∂L/∂z = Σ_i g_i (1[v = v_i] - π)  over y and the named tokens
                        + g_tail (π restricted to the tail, normalised - π)
                ∂L/∂h = ∂L/∂z W        ∂L/∂W = Σ over chunks of (∂L/∂z)ᵀ h
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOGITS_AT_ONCE = 2**26
"""Logits of a chunk, 256 MiB in float32: 441 tokens of 152k logits, enough arithmetic for each look at the head."""
LOGITS_AT_ONCE_ON_CPU = 2**22
"""The same for the learner on a CPU, whose memory holds gradients and the optimiser's state besides: 16 MiB."""
LEAST_TOKENS = 64
"""Fewer tokens a chunk would read the head's weights once for too little arithmetic."""


@dataclass(frozen=True)
class Head:
    """The linear map from hidden states to logits."""

    weight: Tensor
    """Shape [vocabulary, hidden size]."""
    bias: Tensor | None = None
    """Shape [vocabulary]."""

    def first(self, rows: int) -> Head:
        """The head of the first `rows` tokens: some heads are padded beyond the vocabulary."""
        return Head(self.weight[:rows], None if self.bias is None else self.bias[:rows])

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of `hidden` [..., hidden size], in float32 at least."""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias)
        return logits if logits.dtype == torch.float64 else logits.float()


@dataclass(frozen=True)
class TokenReadout:
    """The policy at n tokens."""

    logprobs: Tensor
    """log π(y_t | ·), shape [n], float32 at least, differentiable in hidden states and head."""
    buckets: Tensor | None
    """Log-probabilities of the named tokens and of all others as one tail, shape [n, k + 1], differentiable; None
    where none were named."""
    entropy: Tensor
    """Entropy of the next-token distribution (nats), shape [n], no gradient."""
    overlap: Tensor | None
    """Share of the policy's k most probable tokens that are among the k given, shape [n], no gradient."""


@dataclass(frozen=True)
class TopReadout:
    """A model at n tokens, and the k tokens that it finds most probable there; no gradient."""

    logprobs: Tensor
    """log π(y_t | ·), shape [n], float32 at least."""
    top_token_ids: Tensor
    """Shape [n, k], int64, most probable first."""
    buckets: Tensor
    """Log-probabilities of these and of all others as one tail, shape [n, k + 1]."""


def token_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Log π(y_t | ·) of given tokens from logits that are there anyway.

    Args:
        logits: shape [..., vocabulary], any float dtype; computed in float32 at least.
        token_ids: shape [...], int64.

    Returns:
        Shape [...], float32 (float64 for float64 logits), differentiable in `logits`.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1) - torch.logsumexp(logits, dim=-1)


def read_tokens(
    head: Head,
    hidden: Tensor,
    token_ids: Tensor,
    named_ids: Tensor | None = None,
    overlap_ids: Tensor | None = None,
    chunk_tokens: int | None = None,
) -> TokenReadout:
    """Read a policy at tokens.

    Args:
        head: the output head.
        hidden: states that predict the tokens, shape [n, hidden size].
        token_ids: y, shape [n], int64.
        named_ids: tokens whose buckets are wanted, shape [n, k], different from each other, k < vocabulary.
        overlap_ids: the tokens of another model's top k, shape [n, k].
        chunk_tokens: tokens read at a time; by default as many as `LOGITS_AT_ONCE` allows.
    """
    at_once = chunk_tokens or _tokens_at_once(head)
    logprobs, buckets, entropy, overlap = _ReadTokens.apply(
        hidden, head.weight, head.bias, token_ids, named_ids, overlap_ids, at_once
    )  # type: ignore[no-untyped-call]
    return TokenReadout(
        logprobs,
        None if named_ids is None else buckets,
        entropy,
        None if overlap_ids is None else overlap,
    )


@torch.no_grad()
def read_top(head: Head, hidden: Tensor, token_ids: Tensor, top_k: int, chunk_tokens: int | None = None) -> TopReadout:
    """Read a model at tokens, and its most probable ones.

    Args:
        head: the output head.
        hidden: states that predict the tokens, shape [n, hidden size].
        token_ids: y, shape [n], int64.
        top_k: k, below the vocabulary's size; 0 leaves all to the tail.
        chunk_tokens: tokens read at a time; by default as many as `LOGITS_AT_ONCE` allows.
    """
    n, dtype = len(hidden), torch.float64 if hidden.dtype == torch.float64 else torch.float32
    logprobs, buckets = hidden.new_empty(n, dtype=dtype), hidden.new_empty(n, top_k + 1, dtype=dtype)
    top_token_ids = token_ids.new_empty(n, top_k)
    for part in _parts(n, chunk_tokens or _tokens_at_once(head, LOGITS_AT_ONCE)):
        normalised = torch.log_softmax(head.logits(hidden[part]), dim=-1)
        logprobs[part] = normalised.gather(-1, token_ids[part, None])[:, 0]
        top_token_ids[part] = normalised.topk(top_k, dim=-1).indices
        buckets[part] = _buckets(normalised, top_token_ids[part])
    return TopReadout(logprobs, top_token_ids, buckets)


@torch.no_grad()
def kl_between(head: Head, hidden: Tensor, other_hidden: Tensor, chunk_tokens: int | None = None) -> Tensor:
    """KL(π(·|h) ‖ π(·|h')) over the whole vocabulary at n positions, shape [n], in nats, no gradient.

    Args:
        head: the output head of both.
        hidden: h, shape [n, hidden size].
        other_hidden: h', same shape.
        chunk_tokens: as in `read_tokens`.
    """
    at_once = chunk_tokens or _tokens_at_once(head)
    divergences = []
    for part, other in zip(torch.split(hidden, at_once), torch.split(other_hidden, at_once), strict=True):
        logprobs = torch.log_softmax(head.logits(part), dim=-1)
        difference = logprobs - torch.log_softmax(head.logits(other), dim=-1)
        divergences.append((logprobs.exp_() * difference).sum(-1))
    return torch.cat(divergences) if divergences else hidden.new_zeros(0)


class _ReadTokens(torch.autograd.Function):
    """See `read_tokens`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        token_ids: Tensor,
        named_ids: Tensor | None,
        overlap_ids: Tensor | None,
        at_once: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        head, n = Head(weight, bias), len(hidden)
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        named = 0 if named_ids is None else named_ids.shape[1] + 1
        logprobs, entropy, lse, tail_lse = (hidden.new_empty(n, dtype=dtype) for _ in range(4))
        buckets = hidden.new_empty(n, named, dtype=dtype)
        overlap = hidden.new_empty(n if overlap_ids is not None else 0, dtype=dtype)
        for part in _parts(n, at_once):
            logits = head.logits(hidden[part])
            # torch.logsumexp, written out: the exponentials serve the entropy as well.
            largest = logits.amax(-1, keepdim=True)
            powers = (logits - largest).exp_()
            total = powers.sum(-1)
            lse[part] = total.log() + largest[:, 0]
            logprobs[part] = logits.gather(-1, token_ids[part, None])[:, 0] - lse[part]
            entropy[part] = lse[part] - torch.einsum("tv,tv->t", powers, logits) / total
            del powers
            if overlap_ids is not None:
                theirs = overlap_ids[part]
                ours = logits.topk(theirs.shape[1], dim=-1).indices
                overlap[part] = (ours[:, :, None] == theirs[:, None, :]).any(-1).to(dtype).mean(-1)
            if named_ids is not None:
                unnormalised = _buckets(logits, named_ids[part])
                buckets[part] = unnormalised - lse[part, None]
                tail_lse[part] = unnormalised[:, -1]
        ctx.save_for_backward(hidden, weight, bias, token_ids, named_ids, lse, tail_lse)
        ctx.at_once = at_once
        ctx.mark_non_differentiable(entropy, overlap)
        return logprobs, buckets, entropy, overlap

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_logprobs, of_buckets = grads[0], grads[1]
        hidden, weight, bias, token_ids, named_ids, lse, tail_lse = ctx.saved_tensors
        head = Head(weight, bias)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        # One sum over many chunks: in the weights' own 16 bits it would lose the later ones.
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        of_weight = torch.zeros_like(weight, dtype=dtype) if wants_weight else None
        of_bias = torch.zeros_like(bias, dtype=dtype) if wants_bias else None
        for part in _parts(len(hidden), ctx.at_once):
            of_logits = _of_logits(
                head.logits(hidden[part]),
                token_ids[part],
                lse[part],
                of_logprobs[part],
                None if named_ids is None else (named_ids[part], tail_lse[part], of_buckets[part]),
            )
            if of_bias is not None:
                of_bias += of_logits.sum(0)
            if of_weight is not None:
                of_weight.addmm_(of_logits.t(), hidden[part].to(dtype))
            if of_hidden is not None:
                of_hidden[part] = of_logits.to(weight.dtype) @ weight
        return (
            of_hidden,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None else of_bias.to(bias.dtype),
            None, None, None, None,
        )  # fmt: skip


def _buckets(logits: Tensor, ids: Tensor) -> Tensor:
    """Z of named tokens, and log Σ exp z over all others: [tokens, k + 1]. `logits` is overwritten.

    Log-probabilities, where `logits` are normalised.
    """
    named = logits.gather(-1, ids)
    # Summed over the rest itself: 1 - sum(named) loses every digit where they hold nearly all the mass.
    tail = torch.logsumexp(logits.scatter_(-1, ids, -math.inf), dim=-1)
    return torch.cat([named, tail[:, None]], dim=-1)


def _of_logits(
    logits: Tensor, token_ids: Tensor, lse: Tensor, of_logprobs: Tensor, named: tuple[Tensor, Tensor, Tensor] | None
) -> Tensor:
    """∂L/∂z of a chunk, shape [tokens, vocabulary]; `logits` is overwritten."""
    if named is None:
        gradient = logits.sub_(lse[:, None]).exp_().mul_(-of_logprobs[:, None])
        return gradient.scatter_add_(-1, token_ids[:, None], of_logprobs[:, None])
    ids, tail_lse, of_buckets = named
    pulled = of_logprobs + of_buckets.sum(-1)
    gradient = (logits - lse[:, None]).exp_().mul_(-pulled[:, None])
    gradient.scatter_add_(-1, token_ids[:, None], of_logprobs[:, None])
    gradient.scatter_add_(-1, ids, of_buckets[:, :-1].contiguous())
    # A tail without mass has no gradient: exp(-inf + inf) would be NaN.
    finite = torch.where(tail_lse.isfinite(), tail_lse, torch.zeros_like(tail_lse))
    rest = logits.scatter_(-1, ids, -math.inf).sub_(finite[:, None]).exp_()
    return gradient.addcmul_(rest, of_buckets[:, -1:])


def _tokens_at_once(head: Head, logits: int | None = None) -> int:
    if logits is None:
        logits = LOGITS_AT_ONCE_ON_CPU if head.weight.device.type == "cpu" else LOGITS_AT_ONCE
    return max(LEAST_TOKENS, logits // head.weight.shape[0])


def _parts(n: int, at_once: int) -> Iterator[slice]:
    return (slice(start, min(n, start + at_once)) for start in range(0, n, at_once))
