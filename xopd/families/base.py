"""What X-OPD must know about a speech LLM, as one interface. Adding a family is adding one file beside this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from xopd.prompts.student import StudentPrompts

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from xopd.data.features import AudioEncoder


class ModelFamily(StudentPrompts, Protocol):
    """One checkpoint of a family, opened without loading its weights."""

    name: str
    path: str

    def is_frozen(self, hub_name: str) -> bool:
        """Whether the tensor of this (hub) name belongs to the audio tower or the adapter."""
        ...

    def load_audio_encoder(self, dtype: torch.dtype) -> AudioEncoder:
        """Load the frozen half alone."""
        ...

    def load_policy(self, dtype: torch.dtype) -> nn.Module:
        """Load the whole model: what the learner trains and exports."""
        ...

    def language_model(self, policy: nn.Module) -> nn.Module:
        """The decoder of a loaded policy: called with `inputs_embeds`, a cache and a mask, gives hidden states."""
        ...

    def output_head(self, policy: nn.Module) -> nn.Module:
        """The linear map from hidden states to logits of a loaded policy."""
        ...

    def hub_state(self, policy: nn.Module) -> dict[str, Tensor]:
        """The policy's tensors under the hub's names, which vLLM reads."""
        ...

    def load_hub_state(self, policy: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors under hub names into the policy, in place; unnamed tensors stay."""
        ...

    def vllm_audio(self, features: Tensor | None, waveform: NDArray[np.float32] | None) -> dict[str, Any]:
        """VLLM's `multi_modal_data` for one clip, from its features or its waveform."""
        ...
