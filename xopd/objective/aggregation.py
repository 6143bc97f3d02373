"""From a value a token to one loss: mean over tokens and responses, and how micro-batches add up to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Aggregation = Literal["sequence_mean", "token_mean"]


@dataclass(frozen=True)
class Totals:
    """Responses and tokens of the whole batch in one modality, when what is at hand is a micro-batch of it."""

    responses: int
    tokens: int


def mean_over_tokens(values: Tensor, mask: Tensor, aggregation: Aggregation, totals: Totals | None = None) -> Tensor:
    """The mean of `values` over a batch.

    Args:
        values: shape [responses, tokens], finite on padding.
        mask: 1 on tokens, 0 on padding, same shape. Every response has a token.
        aggregation: `sequence_mean`: mean over a response's tokens, then over responses (eq. 3, 4 of the paper);
            `token_mean`: over all tokens alike.
        totals: of the whole batch; the results of its micro-batches then add up to the batch's. None: this is all.

    Returns:
        A scalar.
    """
    mask = mask.to(values.dtype)
    if aggregation == "sequence_mean":
        responses = totals.responses if totals is not None else mask.shape[0]
        return ((values * mask).sum(-1) / mask.sum(-1)).sum() / responses
    tokens = totals.tokens if totals is not None else mask.sum()
    return (values * mask).sum() / tokens
