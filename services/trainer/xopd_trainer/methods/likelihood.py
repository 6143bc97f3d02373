"""The loss that the supervised methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from xopd.objective import Aggregation, Totals, mean_over_tokens
from xopd_trainer.batch import ResponseTensors
from xopd_trainer.methods.base import PolicyReadout


def negative_log_likelihood(
    policy: PolicyReadout, responses: ResponseTensors, aggregation: Aggregation, totals: Totals
) -> Tensor:
    """Minus log π_θ(y*_t | x_m, y*_<t), averaged; a scalar, differentiable."""
    values = torch.where(responses.mask, -policy.logprobs, torch.zeros_like(policy.logprobs))
    return mean_over_tokens(values, responses.mask, aggregation, totals)
