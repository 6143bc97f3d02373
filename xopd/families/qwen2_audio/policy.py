"""The policy of Qwen2-Audio: the whole model, of which the Qwen2 decoder and its head train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2AudioForConditionalGeneration

from xopd.errors import UserError
from xopd.families.checkpoint_files import check_weight_files
from xopd.families.qwen2_audio.weights import hub_name, is_frozen, refuse_incomplete


def load_policy(path: str, config: Any, dtype: torch.dtype) -> nn.Module:
    """Load the whole model; tower and adapter do not require gradients.

    Raises:
        UserError: if it cannot be loaded, lacks a tensor, or has one in another shape than `config` tells.
    """
    check_weight_files("student.path", Path(path))
    policy: nn.Module
    try:
        policy, about = Qwen2AudioForConditionalGeneration.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            # Told below, by name.
            ignore_mismatched_sizes=True,
        )
    except OSError as error:
        raise UserError(f"student.path {path}: cannot be loaded ({error}).") from None
    # transformers would fill these with random numbers and go on.
    mismatched = (hub_name(each[0]) for each in about["mismatched_keys"])
    refuse_incomplete(path, config, map(hub_name, about["missing_keys"]), mismatched)
    policy.eval()
    for name, parameter in policy.named_parameters():
        # safetensors maps the file into memory: written over in place, it would change the policy under us.
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(not is_frozen(hub_name(name)))
    return policy


def language_model(policy: nn.Module) -> nn.Module:
    """The Qwen2 decoder."""
    decoder: nn.Module = policy.model.language_model  # type: ignore[union-attr,assignment]
    return decoder


def output_head(policy: nn.Module) -> nn.Module:
    """The map from hidden states to logits."""
    head: nn.Module = policy.lm_head  # type: ignore[assignment]
    return head


def embed_prompt(
    policy: nn.Module, prompt_token_ids: Sequence[int], audio_token_id: int, features: Tensor | None
) -> Tensor:
    """Embeddings of one prompt, shape [prompt tokens, hidden size]; the placeholder gives way to `features`."""
    embed = language_model(policy).get_input_embeddings()  # type: ignore[operator]
    ids = torch.tensor(prompt_token_ids, device=embed.weight.device)
    embedded: Tensor = embed(ids)
    if features is None:
        return embedded
    at = int((ids == audio_token_id).nonzero()[0])
    return torch.cat([embedded[:at], features.to(embedded), embedded[at + 1 :]])
