"""Divergences between whole next-token distributions of which the teacher has named the k most probable tokens.

The vocabulary is cut into k + 1 buckets: each token that the teacher named, and all others as one *tail*. Both
distributions are summed over the buckets, so every divergence here is one between proper distributions, a lower
bound of the divergence over the vocabulary, and equal to it for k = vocabulary - 1. Without the tail, mass that the
policy moves outside the k tokens would cost nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TeacherTop:
    """The teacher's most probable tokens at each position."""

    token_ids: Tensor
    """Shape [responses, tokens, k], int64, most probable first; anything on padding."""
    logprobs: Tensor
    """log π_T of these, same shape, finite."""
    tail_logprobs: Tensor
    """Log of the mass outside them, shape [responses, tokens], finite."""

    def buckets(self) -> Tensor:
        """Log-probabilities of the k + 1 buckets, shape [responses, tokens, k + 1]."""
        return torch.cat([self.logprobs, self.tail_logprobs.unsqueeze(-1)], dim=-1)


def kl_divergence(p_logprobs: Tensor, q_logprobs: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p (log p - log q) over the last axis, in nats, differentiable in both."""
    return (p_logprobs.exp() * (p_logprobs - q_logprobs)).sum(-1)


def generalised_jsd(teacher_logprobs: Tensor, policy_logprobs: Tensor, beta: float) -> Tensor:
    """The generalised Jensen-Shannon divergence of GKD (Agarwal et al., arXiv 2306.13649), over the last axis.

        M = β π_T + (1 - β) π_θ
        JSD_β = β KL(π_T ‖ M) + (1 - β) KL(π_θ ‖ M)

    β = 0 means the forward KL(π_T ‖ π_θ) and β = 1 the reverse KL(π_θ ‖ π_T), the limits of JSD_β / β and
    JSD_β / (1 - β).

    Args:
        teacher_logprobs: log π_T, shape [..., buckets].
        policy_logprobs: log π_θ, same shape, differentiable.
        beta: in [0, 1].
    """
    if beta == 0.0:
        return kl_divergence(teacher_logprobs, policy_logprobs)
    if beta == 1.0:
        return kl_divergence(policy_logprobs, teacher_logprobs)
    mixture = torch.logaddexp(math.log(beta) + teacher_logprobs, math.log1p(-beta) + policy_logprobs)
    from_teacher = kl_divergence(teacher_logprobs, mixture)
    return beta * from_teacher + (1.0 - beta) * kl_divergence(policy_logprobs, mixture)
