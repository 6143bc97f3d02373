"""X-OPD, equations 1 to 5 of arXiv 2603.24596.

For an instruction given as text x_t and as speech x_s, the student answers either form, y ~ π_b(·|x_m); the teacher
reads the text only.

    in-modal     A_t = log π_T(y_t | x_t, y_<t) - log π_θ(y_t | x_t, y_<t)      y sampled from the text prompt    (1)
    cross-modal  A_t = log π_T(y_t | x_t, y_<t) - log π_θ(y_t | x_s, y_<t)      y sampled from the speech prompt  (2)
    ρ_t = π_θ(y_t | x_m, y_<t) / π_b(y_t | x_m, y_<t)
    L_m = - mean over responses, mean over tokens, of ρ_t · stopgrad(A_t)                                      (3, 4)
    L   = (1 - λ) L_in + λ L_cross                                                                                (5)

Equations 1 and 2 are one function here, `advantages`: they differ only in the prompt that conditions π_θ.
All tensors have the shape [responses, tokens]; `mask` is 1 where a token was sampled and 0 on padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["sequence_mean", "token_mean"]


@dataclass(frozen=True)
class ModalityTerms:
    """What one modality's loss was made of; each of shape [responses, tokens], no gradient but in `loss`."""

    loss: Tensor
    """L_m, a scalar, differentiable."""
    advantage: Tensor
    """A_t before any clamp, in nats."""
    ratio: Tensor
    """ρ_t before any truncation."""
    clipped: Tensor
    """1 where the clamp or the truncation changed something."""


def advantages(teacher_logprobs: Tensor, policy_logprobs: Tensor) -> Tensor:
    """Equations 1 and 2: A_t, without gradient.

    Args:
        teacher_logprobs: log π_T(y_t | x_t, y_<t): the teacher given the TEXT prompt.
        policy_logprobs: log π_θ(y_t | x_m, y_<t): the student given the prompt that y was sampled from.

    Returns:
        Same shape, in nats. Its mean under y ~ π_θ is minus the reverse KL divergence.
    """
    return teacher_logprobs.to(policy_logprobs.dtype) - policy_logprobs.detach()


def importance_ratio(policy_logprobs: Tensor, behaviour_logprobs: Tensor) -> Tensor:
    """ρ_t = π_θ / π_b, differentiable in `policy_logprobs`; same shape."""
    return torch.exp(policy_logprobs - behaviour_logprobs.to(policy_logprobs.dtype))


def modality_loss(
    policy_logprobs: Tensor,
    behaviour_logprobs: Tensor,
    teacher_logprobs: Tensor,
    mask: Tensor,
    aggregation: Aggregation = "sequence_mean",
    advantage_clamp: float | None = None,
    ratio_truncation: tuple[float, float] | None = None,
    total_responses: int | None = None,
    total_tokens: int | None = None,
) -> ModalityTerms:
    """Equations 3 and 4: L_m over the responses of one modality.

    Args:
        policy_logprobs: log π_θ, shape [responses, tokens], with gradient.
        behaviour_logprobs: log π_b as the sampling engine gave it, same shape.
        teacher_logprobs: log π_T, same shape.
        mask: 1 on sampled tokens, 0 on padding, same shape. Every response has a token.
        aggregation: `sequence_mean` is the paper's; `token_mean` weighs every token alike.
        advantage_clamp: c clamps A to [-c, c] (nats).
        ratio_truncation: [low, high] bounds ρ; outside, no gradient flows.
        total_responses: responses of the whole batch, when this is one micro-batch of it.
        total_tokens: tokens of the whole batch, likewise.

    Returns:
        The loss and its parts. The losses of a batch's micro-batches add up to the batch's loss.
    """
    # Masked before any arithmetic: padding may hold infinities, and their gradient would be NaN even under a mask.
    policy_logprobs, behaviour_logprobs, teacher_logprobs = (
        torch.where(mask > 0, x, torch.zeros_like(x)) for x in (policy_logprobs, behaviour_logprobs, teacher_logprobs)
    )
    mask = mask.to(policy_logprobs.dtype)
    advantage = advantages(teacher_logprobs, policy_logprobs)
    ratio = importance_ratio(policy_logprobs, behaviour_logprobs)
    used_advantage, used_ratio = advantage, ratio
    if advantage_clamp is not None:
        used_advantage = advantage.clamp(-advantage_clamp, advantage_clamp)
    if ratio_truncation is not None:
        used_ratio = ratio.clamp(*ratio_truncation)
    gains = mask * used_ratio * used_advantage
    if aggregation == "sequence_mean":
        loss = -(gains.sum(-1) / mask.sum(-1)).sum() / (total_responses or mask.shape[0])
    else:
        loss = -gains.sum() / (total_tokens or mask.sum())
    clipped = ((used_advantage != advantage) | (used_ratio != ratio)) & (mask > 0)
    return ModalityTerms(loss, advantage, ratio.detach(), clipped.to(mask.dtype))


def combine_modalities(loss_in: Tensor | None, loss_cross: Tensor | None, lambda_: float) -> Tensor:
    """Equation 5: L = (1 - λ) L_in + λ L_cross.

    A modality whose weight is 0 is not sampled; its loss is None.
    """
    terms = []
    if loss_in is not None:
        terms.append((1.0 - lambda_) * loss_in)
    if loss_cross is not None:
        terms.append(lambda_ * loss_cross)
    if not terms:
        raise ValueError("neither modality has a loss")
    return torch.stack(terms).sum()
