"""What X-OPD must know about a speech LLM, as one interface. Adding a family is adding one file beside this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from xopd.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn


class AudioEncoder(Protocol):
    """The frozen half of the model: audio tower and modal adapter."""

    fingerprint: str
    """SHA-256 over the frozen tensors: encoded clips are valid for exactly these."""

    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        """Encode clips.

        Args:
            waveforms: mono samples at the family's sample rate, each of shape [samples].

        Returns:
            One tensor of shape [audio tokens, hidden size] a clip: what the language model is given in the place of
            the audio placeholder.
        """
        ...


class ModelFamily(Protocol):
    """One checkpoint of a family, opened without loading its weights."""

    name: str
    path: str
    tokenizer: Any
    vocabulary: Vocabulary
    sample_rate: int
    audio_token_id: int
    """The placeholder: one in a rendered speech prompt, repeated once an audio token before the model sees it."""
    stop_token_ids: tuple[int, ...]
    """End-of-turn tokens; the first is the one the template uses."""
    max_audio_samples: int
    """The audio tower's window (samples at `sample_rate`): what a clip holds beyond it would not be heard."""

    def render_text(self, text: str) -> list[int]:
        """Token ids of the prompt that asks `text`, up to where the answer begins.

        Raises:
            UnusablePromptError: if the template or the tokenizer cannot write it.
        """
        ...

    def render_speech(self, question: str) -> list[int]:
        """Token ids of the prompt that holds one audio placeholder, then `question` (may be empty).

        Raises as `render_text` does.
        """
        ...

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a response given as text, with the end of turn that the template uses.

        Raises:
            PlainTextError: if the tokenizer cannot write it as text.
        """
        ...

    def audio_tokens(self, samples: int) -> int:
        """Tokens that a clip of so many samples takes in the place of its placeholder; 0 where it is too short."""
        ...

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
