"""The policy at the tokens of responses: its hidden states, and what it says there.

A speech prompt's audio enters as the frozen tower's cached features, so the tower itself is never run here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xopd.families import ModelFamily
from xopd.forward import left_padded, read_prompts, read_responses
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
    decoder = family.language_model(policy)
    embedded, prompt_mask = left_padded(prompts)
    prefix = read_prompts(decoder, embedded, prompt_mask, family.positions(prompt_mask))
    repeats = torch.tensor(per_prompt, device=embedded.device)
    rows = torch.arange(len(prompts), device=embedded.device).repeat_interleave(repeats)
    embed = decoder.get_input_embeddings()  # type: ignore[operator]
    return read_responses(decoder, prefix, rows, embed(responses), mask)


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
