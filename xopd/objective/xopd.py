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

`expected_modality_loss` puts the exact expectation over the next token in the place of the sampled one
(Rao-Blackwell): the same gradient on average, with less variance, for the price of the teacher's distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xopd.objective.aggregation import Aggregation, Totals, mean_over_tokens
from xopd.objective.distributions import TeacherTop

Range = tuple[float, float]


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
    """1 where the clamp, the truncation or the ratio's mask changed something."""


@dataclass(frozen=True)
class ExpectedTerms:
    """What one modality's loss in closed form was made of."""

    loss: Tensor
    """L_m, a scalar, differentiable."""
    clipped: Tensor
    """Σ_v π_θ(v) over the buckets v whose advantage the clamp changed: [responses, tokens], in [0, 1], no gradient."""


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
    ratio_truncation: Range | None = None,
    ratio_mask: Range | None = None,
    totals: Totals | None = None,
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
        ratio_mask: [low, high]; a token whose ρ lies outside counts as 0, and still counts in the mean.
        totals: of the whole batch, when this is one micro-batch of it.

    Returns:
        The loss and its parts. The losses of a batch's micro-batches add up to the batch's loss.
    """
    policy_logprobs, behaviour_logprobs, teacher_logprobs = _without_padding(
        mask, policy_logprobs, behaviour_logprobs, teacher_logprobs
    )
    advantage = advantages(teacher_logprobs, policy_logprobs)
    ratio = importance_ratio(policy_logprobs, behaviour_logprobs)
    used_advantage, used_ratio = advantage, ratio
    if advantage_clamp is not None:
        used_advantage = advantage.clamp(-advantage_clamp, advantage_clamp)
    if ratio_truncation is not None:
        used_ratio = ratio.clamp(*ratio_truncation)
    if ratio_mask is not None:
        inside = (ratio >= ratio_mask[0]) & (ratio <= ratio_mask[1])
        used_ratio = torch.where(inside, used_ratio, torch.zeros_like(ratio))
    loss = -mean_over_tokens(used_ratio * used_advantage, mask, aggregation, totals)
    clipped = ((used_advantage != advantage) | (used_ratio != ratio)) & (mask > 0)
    return ModalityTerms(loss, advantage, ratio.detach(), clipped.to(loss.dtype))


def expected_modality_loss(
    policy_buckets: Tensor,
    teacher_top: TeacherTop,
    mask: Tensor,
    aggregation: Aggregation = "sequence_mean",
    advantage_clamp: float | None = None,
    totals: Totals | None = None,
) -> ExpectedTerms:
    """Equations 3 and 4 with the next token's expectation in closed form, Σ_v π_θ(v) stopgrad(A(v)).

    v runs over the buckets of `xopd.objective.distributions`. Its value without a clamp is the reverse KL, and so is
    its gradient, since Σ_v ∇π_θ(v) = 0. No importance ratio: the expectation is under π_θ itself.

    Args:
        policy_buckets: log-probabilities of the teacher's named tokens and of the tail under the policy, shape
            [responses, tokens, k + 1], with gradient.
        teacher_top: what the teacher said at these positions.
        mask: 1 on tokens, 0 on padding.
        aggregation: as in `modality_loss`.
        advantage_clamp: likewise.
        totals: likewise.

    Returns:
        The loss, and the share of the policy's mass that the clamp changed, 0 without a clamp and on padding. The
        losses of a batch's micro-batches add up to the batch's loss.
    """
    advantage = advantages(teacher_top.buckets(), policy_buckets)
    used = advantage if advantage_clamp is None else advantage.clamp(-advantage_clamp, advantage_clamp)
    inside = mask > 0
    gains = (policy_buckets.exp() * used).sum(-1)
    # Rounding may take the sum of all buckets above 1.
    clipped = (policy_buckets.detach().exp() * (used != advantage)).sum(-1).clamp(max=1.0)
    return ExpectedTerms(
        -mean_over_tokens(torch.where(inside, gains, torch.zeros_like(gains)), mask, aggregation, totals),
        torch.where(inside, clipped, torch.zeros_like(clipped)),
    )


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


def _without_padding(mask: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    # Before any arithmetic: padding may hold infinities, and their gradient would be NaN even under a mask.
    return tuple(torch.where(mask > 0, tensor, torch.zeros_like(tensor)) for tensor in tensors)
