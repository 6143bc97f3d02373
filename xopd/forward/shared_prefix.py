"""One forward pass over each prompt for all the responses that follow it: the learner's and the teacher's.

    x_0 … x_{P-1}        forward once; keep the key-value cache and the last hidden state h_{P-1}
    y_0 … y_{T-2}        forward after the repeated cache; hidden states h_P … h_{P+T-2}

    y_0                  is predicted by h_{P-1}: the LAST PROMPT position predicts the first response token
    y_t                  is predicted by h_{P+t-1}

Prompts are padded on the left, so that every cache ends where the response begins; responses on the right. Exact,
gradients included: the cache is repeated, not detached. Without gradient, call under `torch.inference_mode`.

A decoder is a transformers decoder without its head. Its inputs are token ids [n, w], int64, or their embeddings
[n, w, hidden size], of a floating-point dtype.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Decoder = Callable[..., Any]


@dataclass
class Prefix:
    """n prompts that went through a decoder, padded to P tokens."""

    cache: Any
    """Their keys and values, a transformers cache of n rows."""
    mask: Tensor
    """Shape [n, P], int64, 0 on padding."""
    next_positions: Tensor
    """Position of what follows each prompt: shape [n], or [axes, n] for a decoder with several position axes."""
    last_hidden: Tensor
    """The hidden state of each prompt's last token, shape [n, hidden size]."""


def left_padded(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts as one tensor, padded on the left with zeros.

    Args:
        prompts: token ids, each [tokens], or embeddings, each [tokens, hidden size].

    Returns:
        The prompts, shape [n, P] or [n, P, hidden size], and their mask, shape [n, P], int64, 0 on padding.
    """
    longest = max(len(prompt) for prompt in prompts)
    padded = [nn.functional.pad(p, (0, 0) * (p.dim() - 1) + (longest - len(p), 0)) for p in prompts]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    mask = torch.arange(longest)[None, :] >= (longest - lengths)[:, None]
    return torch.stack(padded), mask.long().to(prompts[0].device)


def text_positions(mask: Tensor) -> Tensor:
    """Positions of a left-padded text: each prompt's tokens counted from 0; shape of `mask`, int64."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def read_prompts(decoder: Decoder, prompts: Tensor, mask: Tensor, positions: Tensor) -> Prefix:
    """Put left-padded prompts through `decoder`.

    Args:
        decoder: see above.
        prompts: ids or embeddings.
        mask: shape [n, P], int64, 0 on padding.
        positions: shape [n, P], or [axes, n, P]. On every axis, what follows a prompt counts on from its last token.
    """
    hidden, cache = extend(decoder, None, prompts, mask, positions)
    # A copy: a view would keep the states of the whole prompts alive.
    return Prefix(cache, mask, positions[..., -1] + 1, hidden[:, -1].clone())


def read_responses(decoder: Decoder, prefix: Prefix, rows: Tensor, responses: Tensor, mask: Tensor) -> Tensor:
    """Hidden states that predict the tokens of responses; `prefix` stays as it is.

    Args:
        decoder: see above.
        prefix: of the prompts.
        rows: the prompt that each response follows, shape [responses], int64.
        responses: right-padded ids or embeddings, [responses, tokens, …].
        mask: true on tokens, shape [responses, tokens].

    Returns:
        Shape [responses, tokens, hidden size]. Values on padding are finite and mean nothing.
    """
    first = prefix.last_hidden.index_select(0, rows)[:, None]
    # A response's last token predicts nothing that is asked for. What is padding follows all that is read, so causal
    # attention keeps it out of sight.
    width = responses.shape[1] - 1
    if width == 0:
        return first
    positions = prefix.next_positions[..., rows, None] + torch.arange(width, device=rows.device)
    seen = torch.cat([prefix.mask[rows], mask[:, :-1].to(prefix.mask)], dim=1)
    hidden, _ = extend(decoder, _rows_of(prefix.cache, rows), responses[:, :-1], seen, positions)
    return torch.cat([first, hidden], dim=1)


def extend(decoder: Decoder, cache: Any, inputs: Tensor, mask: Tensor, positions: Tensor) -> tuple[Tensor, Any]:
    """Put `inputs` through `decoder` after what `cache` holds, which grows; None is an empty one.

    Args:
        decoder: see above.
        cache: of n rows, c tokens long.
        inputs: w ids or embeddings a row.
        mask: shape [n, c + w], int64, 0 on padding.
        positions: of the inputs, shape [n, w] or [axes, n, w].

    Returns:
        Hidden states, shape [n, w, hidden size], and the longer cache.
    """
    kind = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
    given = {kind: inputs, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
    out = decoder(**given, use_cache=True)
    return out.last_hidden_state, out.past_key_values


def _rows_of(cache: Any, rows: Tensor) -> Any:
    """A new cache that holds the given rows of `cache`; no tensor is copied twice, and gradients flow."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in chosen.layers:
        # Recurrent layers hold their states in dictionaries.
        vars(layer).update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
    chosen.reorder_cache(rows)
    return chosen
