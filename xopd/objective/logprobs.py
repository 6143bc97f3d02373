"""Log-probabilities and entropies from logits."""

from __future__ import annotations

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Log π(y_t | ·) of given tokens, natural logarithm.

    Args:
        logits: shape [..., vocabulary], any float dtype; computed in float32 at least.
        token_ids: shape [...], int64.

    Returns:
        Shape [...], float32 (float64 for float64 logits), differentiable in `logits`.
    """
    logits = _at_least_float32(logits)
    chosen = logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    return chosen - torch.logsumexp(logits, dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the next-token distribution, in nats.

    Args:
        logits: shape [..., vocabulary].

    Returns:
        Shape [...], float32 (float64 for float64 logits).
    """
    logprobs = torch.log_softmax(_at_least_float32(logits), dim=-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
