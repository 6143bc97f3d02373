"""Qwen2-Audio: a Whisper-like tower, a linear adapter, a Qwen2 language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xopd.families.base import ModelFamily
from xopd.families.qwen2_audio import policy as policies
from xopd.families.qwen2_audio import weights
from xopd.families.qwen2_audio.audio import FrozenAudio, load_frozen_audio
from xopd.families.qwen2_audio.prompt import Prompts
from xopd.forward import text_positions


class Qwen2AudioFamily(Prompts):
    """A Qwen2-Audio checkpoint; see `xopd.families.base.ModelFamily` for the methods."""

    name = "qwen2_audio"

    def load_audio_encoder(self, dtype: torch.dtype) -> FrozenAudio:
        """Load tower and adapter alone."""
        return load_frozen_audio(self.path, self.config, self.processor.feature_extractor, dtype)

    def vllm_audio(self, features: Tensor | None, waveform: NDArray[np.float32] | None) -> dict[str, Any]:
        """VLLM takes either one in the same place."""
        if features is not None:
            return {"audio": features.unsqueeze(0)}
        return {"audio": (waveform, self.sample_rate)}

    def load_policy(self, dtype: torch.dtype) -> nn.Module:
        """Load the whole model; tower and adapter do not require gradients."""
        return policies.load_policy(self.path, self.config, dtype)

    def language_model(self, policy: nn.Module) -> nn.Module:
        """The Qwen2 decoder."""
        return policies.language_model(policy)

    def output_head(self, policy: nn.Module) -> nn.Module:
        """The map from hidden states to logits."""
        return policies.output_head(policy)

    def embed_prompt(self, policy: nn.Module, prompt_token_ids: Sequence[int], features: Tensor | None) -> Tensor:
        """The clip's features stand where its placeholder was."""
        return policies.embed_prompt(policy, prompt_token_ids, self.audio_token_id, features)

    def positions(self, mask: Tensor) -> Tensor:
        """One axis: text and audio are counted alike."""
        return text_positions(mask)

    def hub_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """One tensor each, in the same shape."""
        return weights.hub_tensors(name, tensor)

    def is_frozen(self, hub_name: str) -> bool:
        """Whether the tensor belongs to the tower or the adapter."""
        return weights.is_frozen(hub_name)


def open_checkpoint(path: str) -> ModelFamily:
    """Open the checkpoint at `path`: what `xopd.families.registry` calls."""
    return Qwen2AudioFamily(path)
