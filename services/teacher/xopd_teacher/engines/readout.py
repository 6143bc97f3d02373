"""From hidden states to log-probabilities: the sampled token, the k most probable ones, and the mass beside them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from xopd.wire import TokenScores

LOGITS_AT_ONCE = 2**26
"""Most float32 logits alive at a time (256 MiB): with a vocabulary of 150,000 they are those of 440 positions."""


def read_scores(
    logits_of: Callable[[Tensor], Tensor], rows: int, hidden: Tensor, targets: Tensor, top_k: int
) -> TokenScores:
    """Log-probabilities at n positions, as if they were those of one response.

    Args:
        logits_of: maps hidden states [m, d] to logits [m, vocabulary].
        rows: of the output head; it computes so many logits a position, padding included.
        hidden: [n, d], the states that predict the targets.
        targets: [n] int64, the tokens whose log-probabilities are wanted.
        top_k: below the vocabulary's size.
    """
    at_once = max(1, LOGITS_AT_ONCE // rows)
    chunks = [
        _read(logits_of(states), wanted, top_k)
        for states, wanted in zip(torch.split(hidden, at_once), torch.split(targets, at_once), strict=True)
    ]
    logprobs, ids, tops, tails = (torch.cat(parts).cpu().numpy() for parts in zip(*chunks, strict=True))
    return TokenScores(logprobs, ids.astype(np.int32), tops, tails)


def _read(logits: Tensor, targets: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(-1, targets[:, None])[:, 0]
    tops, ids = logprobs.topk(top_k, dim=-1)
    if top_k == 0:
        return chosen, ids, tops, chosen.new_empty(0)
    # Summed over the rest itself: 1 - sum(top k) would lose every digit where the top k hold nearly all the mass.
    tails = logprobs.scatter(-1, ids, float("-inf")).logsumexp(dim=-1)
    return chosen, ids, tops, tails
