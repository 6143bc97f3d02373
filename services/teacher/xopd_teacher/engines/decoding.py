"""Generation in a batch: greedy or seeded, each answer independent of the others that happen to be beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xopd.forward import Decoder, Prefix, extend
from xopd.objective import Head, token_logprobs
from xopd_teacher.engines.base import Generated, GenerateItem


def decode(
    decoder: Decoder,
    head: Head,
    never: Sequence[int],
    prefix: Prefix,
    items: Sequence[GenerateItem],
) -> tuple[list[Generated], int]:
    """Answer `items`, whose prompts `prefix` holds in the same order. The prefix is used up.

    Args:
        decoder: see `xopd.forward.shared_prefix`.
        head: of the vocabulary's size.
        never: ids that are never generated.
        prefix: of the prompts.
        items: what is to be answered.

    Returns:
        The answers, and how many positions went through the model for them.
    """
    tokens: list[list[int]] = [[] for _ in items]
    logprobs: list[list[float]] = [[] for _ in items]
    holes = torch.tensor(never, dtype=torch.int64, device=prefix.mask.device)
    generators = [torch.Generator().manual_seed(item.seed) for item in items]
    alive = list(range(len(items)))  # items by row; a row whose item has ended stays until the next clearing
    ended: set[int] = set()
    hidden, mask, cache, positions = prefix.last_hidden, prefix.mask, prefix.cache, prefix.next_positions
    forward = 0
    while True:
        logits = head.logits(hidden)
        tokens_alone = logits.index_fill(-1, holes, float("-inf")) if len(holes) else logits
        chosen = _choose(tokens_alone, [items[i] for i in alive], [generators[i] for i in alive])
        chosen_logprobs = token_logprobs(logits, chosen).tolist()
        for i, token, logprob in zip(alive, chosen.tolist(), chosen_logprobs, strict=True):
            if i in ended:
                continue
            tokens[i].append(token)
            logprobs[i].append(logprob)
            if token in items[i].stop_token_ids or len(tokens[i]) == items[i].max_new_tokens:
                ended.add(i)
        running = [row for row, i in enumerate(alive) if i not in ended]
        if not running:
            break
        if 2 * len(running) <= len(alive):
            rows = torch.tensor(running, device=mask.device)
            cache.reorder_cache(rows)
            chosen, mask, positions = chosen[rows], mask[rows], positions[rows]
            alive = [alive[row] for row in running]
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        states, cache = extend(decoder, cache, chosen[:, None], mask, positions[:, None])
        hidden, positions = states[:, -1], positions + 1
        forward += len(alive)
    answers = [
        Generated(np.asarray(t, dtype=np.int64), np.asarray(p, dtype=np.float32))
        for t, p in zip(tokens, logprobs, strict=True)
    ]
    return answers, forward


def _choose(logits: Tensor, items: Sequence[GenerateItem], generators: Sequence[torch.Generator]) -> Tensor:
    """One token for each row of `logits` [n, V]; temperature 0 takes the most probable."""
    chosen = logits.argmax(-1)
    sampled = [row for row, item in enumerate(items) if item.temperature > 0]
    if sampled:
        rows = torch.tensor(sampled, device=logits.device)
        temperatures = torch.tensor([items[row].temperature for row in sampled], dtype=torch.float64)
        draws = torch.stack([torch.rand((), generator=generators[row], dtype=torch.float64) for row in sampled])
        # By inverse distribution function: one draw a token from the item's own generator, whatever the batch.
        scaled = logits[rows].double() / temperatures[:, None].to(logits.device)
        cumulative = torch.softmax(scaled, dim=-1).cumsum(-1)
        wanted = draws[:, None].to(logits.device) * cumulative[:, -1:]
        chosen[rows] = torch.searchsorted(cumulative, wanted, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return chosen
