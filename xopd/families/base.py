"""What X-OPD must know about a speech LLM, in four parts by who asks. One folder beside this file is one family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from xopd.prompts.student import StudentPrompts

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from xopd.data.features import AudioEncoder


class StudentAudio(Protocol):
    """The frozen half of a checkpoint: how clips become what the language model hears."""

    def load_audio_encoder(self, dtype: torch.dtype) -> AudioEncoder:
        """Load audio tower and adapter alone.

        Raises:
            UserError: if the checkpoint lacks one of their tensors, or has it in another shape.
        """
        ...

    def vllm_audio(self, features: Tensor | None, waveform: NDArray[np.float32] | None) -> dict[str, Any]:
        """VLLM's `multi_modal_data` for one clip, from its features [audio tokens, hidden size] or its waveform."""
        ...


class StudentPolicy(Protocol):
    """The model that is trained: how it is loaded, and how its language model is called on embedded prompts."""

    def load_policy(self, dtype: torch.dtype) -> nn.Module:
        """Load the whole model: what the learner trains and exports. Frozen parameters require no gradient.

        Raises:
            UserError: if the checkpoint cannot be loaded, lacks a tensor, or has one in another shape.
        """
        ...

    def language_model(self, policy: nn.Module) -> nn.Module:
        """The decoder of a loaded policy: called with `inputs_embeds`, a cache, a mask and `position_ids`."""
        ...

    def output_head(self, policy: nn.Module) -> nn.Module:
        """The linear map from hidden states to logits of a loaded policy."""
        ...

    def embed_prompt(self, policy: nn.Module, prompt_token_ids: Sequence[int], features: Tensor | None) -> Tensor:
        """Input embeddings of one prompt, shape [prompt tokens, hidden size].

        Args:
            policy: as `load_policy` gave it.
            prompt_token_ids: with one audio placeholder for a speech prompt.
            features: shape [audio tokens, hidden size], in the placeholder's place; None for text.
        """
        ...

    def positions(self, mask: Tensor) -> Tensor:
        """Position ids of embedded prompts; on every axis, what follows a prompt counts on from its last token.

        Args:
            mask: shape [rows, tokens]: 1 on tokens, 0 on padding, which stands left of a prompt.

        Returns:
            Shape [rows, tokens], or [axes, rows, tokens] for a language model with several position axes; int64. Those
            of padding mean nothing.
        """
        ...


class WeightNames(Protocol):
    """What the tensors of a policy are called on the hub, and what shapes they have there."""

    def hub_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The hub's tensors that one tensor of the policy stands for, as (hub name, view).

        Each is a view of `tensor` in the hub's shape: read, it is what a checkpoint holds; written, it loads one. An
        optimiser's state of the same shape goes by the same views.

        Args:
            name: as `nn.Module.named_parameters` has it.
            tensor: of the policy's shape.

        Raises:
            KeyError: if a checkpoint of this family has no such tensor.
        """
        ...

    def is_frozen(self, hub_name: str) -> bool:
        """Whether the tensor of this (hub) name belongs to the audio tower or the adapter."""
        ...


class ModelFamily(StudentPrompts, StudentAudio, StudentPolicy, WeightNames, Protocol):
    """One checkpoint of a family, opened without loading its weights."""

    name: str
    path: str
