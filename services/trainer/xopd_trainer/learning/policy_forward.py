"""The policy at the tokens of responses: each prompt is read once, its key-value cache serves them all.

Exact, gradients included: the cache is repeated, not detached. A speech prompt's audio enters as the frozen tower's
cached features, so the tower itself is never run here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from xopd.families import ModelFamily
from xopd.objective import Head, read_tokens
from xopd_trainer.batch import ResponseTensors
from xopd_trainer.methods import PolicyReadout


def response_hidden(
    family: ModelFamily,
    policy: nn.Module,
    prompts: Sequence[Tensor],
    responses: Tensor,
    mask: Tensor,
    per_prompt: Sequence[int],
) -> Tensor:
    """Hidden states of the policy that predict the tokens of responses.

    Args:
        family: the policy's family.
        policy: the model.
        prompts: embedded prompts, each of shape [prompt tokens, hidden size].
        responses: token ids, shape [responses, tokens], right-padded; rows ordered by prompt.
        mask: True on tokens, shape [responses, tokens].
        per_prompt: responses of each prompt; sums to the number of rows.

    Returns:
        Shape [responses, tokens, hidden size], with gradient. Values on padding are finite and mean nothing.
    """
    language_model = family.language_model(policy)
    embeddings, prompt_mask = _left_padded(prompts)
    device = embeddings.device
    repeats = torch.tensor(per_prompt, device=device)
    cache = DynamicCache()
    read = language_model(
        inputs_embeds=embeddings,
        attention_mask=prompt_mask,
        position_ids=family.positions(prompt_mask),
        past_key_values=cache,
        use_cache=True,
    )
    # The last prompt position predicts the first response token; response token t predicts token t + 1.
    hidden: Tensor = read.last_hidden_state[:, -1:].repeat_interleave(repeats, dim=0)
    if responses.shape[1] > 1:
        rows = torch.arange(len(prompts), device=device).repeat_interleave(repeats)
        cache.batch_select_indices(rows)
        full_mask = torch.cat([prompt_mask[rows], mask[:, :-1].to(prompt_mask)], dim=1)
        continued = language_model(
            inputs_embeds=language_model.get_input_embeddings()(responses[:, :-1]),  # type: ignore[operator]
            attention_mask=full_mask,
            position_ids=family.positions(full_mask)[..., prompt_mask.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        )
        hidden = torch.cat([hidden, continued.last_hidden_state], dim=1)
    return hidden


def read_policy(
    head: Head, hidden: Tensor, responses: ResponseTensors, reads_buckets: bool, overlap_top_k: int
) -> PolicyReadout:
    """What the policy says at the tokens of responses.

    Args:
        head: its output head.
        hidden: the states that predict the tokens, shape [tokens of all responses, hidden size].
        responses: in whose shape the values come back.
        reads_buckets: whether the buckets of the teacher's named tokens are wanted.
        overlap_top_k: k of the top-k overlap; 0 leaves it out, and so does a teacher that was asked for fewer tokens.
    """
    mask, top = responses.mask, responses.teacher_top
    named = top.token_ids[mask] if top is not None and reads_buckets else None
    compared = top is not None and 0 < overlap_top_k <= top.token_ids.shape[-1]
    overlap_ids = top.token_ids[mask][:, :overlap_top_k] if top is not None and compared else None
    read = read_tokens(head, hidden, responses.token_ids[mask], named, overlap_ids)
    return PolicyReadout(
        _laid_out(read.logprobs, mask),
        None if read.buckets is None else _laid_out(read.buckets, mask),
        _laid_out(read.entropy, mask),
        None if read.overlap is None else _laid_out(read.overlap, mask),
    )


def _laid_out(values: Tensor, mask: Tensor) -> Tensor:
    """Values of tokens [tokens, ...] in the shape of `mask` [responses, tokens, ...]; 0 on padding."""
    return values.new_zeros(*mask.shape, *values.shape[1:]).index_put((mask,), values)


def _left_padded(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    embeddings = torch.stack([nn.functional.pad(p, (0, 0, longest - len(p), 0)) for p in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=embeddings.device)
    mask = torch.arange(longest, device=embeddings.device)[None, :] >= (longest - lengths)[:, None]
    return embeddings, mask.long()
