"""Qwen2-Audio: a Whisper-like tower, a linear adapter, a Qwen2 language model.

The tower is made for 30-second windows. Clips are shorter; their valid frames attend to valid frames only, so a
window trimmed to the longest clip of the batch (plus the convolutions' reach) gives the same features for less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoProcessor, Qwen2AudioForConditionalGeneration
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder, Qwen2AudioMultiModalProjector

from xopd.errors import UserError
from xopd.families.checkpoint_files import check_weight_files
from xopd.prompts import ChatTemplate, TextEncoder
from xopd.prompts.vocabulary import vocabulary_of

FROZEN_PREFIXES = ("audio_tower.", "multi_modal_projector.")
# transformers' module names, and the hub's names for the same tensors.
TO_HUB = (
    ("model.language_model.", "language_model.model."),
    ("model.audio_tower.", "audio_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
CONVOLUTION_STRIDE = 2
# Mel frames beyond a clip's end that its last valid output can see through the two convolutions.
CONVOLUTION_REACH = 4
HEAD = "language_model.lm_head.weight"


class Qwen2AudioFamily:
    """A Qwen2-Audio checkpoint; see `xopd.families.base.ModelFamily` for the methods."""

    name = "qwen2_audio"

    def __init__(self, path: str) -> None:
        """Read processor and config from `path`."""
        self.path = path
        self.processor = AutoProcessor.from_pretrained(path, local_files_only=True)
        self.tokenizer = self.processor.tokenizer
        self.config = AutoConfig.from_pretrained(path, local_files_only=True)
        self.vocabulary = vocabulary_of(self.tokenizer)
        self.sample_rate = int(self.processor.feature_extractor.sampling_rate)
        self.audio_token_id = int(self.tokenizer.convert_tokens_to_ids(self.processor.audio_token))
        self.stop_token_ids: tuple[int, ...] = (int(self.tokenizer.convert_tokens_to_ids("<|im_end|>")),)
        extractor = self.processor.feature_extractor
        self.hop = int(extractor.hop_length)
        positions = int(self.config.audio_config.max_source_positions)
        self.max_audio_samples = min(int(extractor.n_samples), CONVOLUTION_STRIDE * positions * self.hop)
        self._encoder = TextEncoder(self.tokenizer)
        self._chat = ChatTemplate(self._encoder, self._template)
        placeholders = self.render_speech("").count(self.audio_token_id)
        if placeholders != 1:
            raise UserError(
                f"student.path {path}: its chat template writes {placeholders} audio placeholders for one clip; one is"
                " needed."
            )

    def render_text(self, text: str) -> list[int]:
        """Token ids of the prompt that asks `text`."""
        return self._render([{"type": "text", "text": text}])

    def render_speech(self, question: str) -> list[int]:
        """Token ids of the prompt with one audio placeholder, then `question`."""
        content: list[dict[str, str]] = [{"type": "audio", "audio_url": ""}]
        if question:
            content.append({"type": "text", "text": question})
        return self._render(content)

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a response given as text, its end of turn included."""
        return [*self._encoder.encode(text), self.stop_token_ids[0]]

    def audio_tokens(self, samples: int) -> int:
        """Tokens of a clip: mel frames, halved by the second convolution and once more by the pooling."""
        frames = -(-samples // self.hop)
        return ((frames - 1) // 2 + 1 - 2) // 2 + 1 if frames else 0

    def _render(self, content: list[dict[str, str]]) -> list[int]:
        return self._chat.render([{"role": "user", "content": content}])

    def _template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        text: str = self.processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return text

    def is_frozen(self, hub_name: str) -> bool:
        """Whether the tensor belongs to the tower or the adapter."""
        return hub_name.startswith(FROZEN_PREFIXES)

    def load_audio_encoder(self, dtype: torch.dtype) -> FrozenAudio:
        """Load tower and adapter alone."""
        tower = Qwen2AudioEncoder(self.config.audio_config)
        adapter = Qwen2AudioMultiModalProjector(self.config)
        frozen = dict(self._frozen_tensors())
        for prefix, module in zip(FROZEN_PREFIXES, (tower, adapter), strict=True):
            own = _under(frozen, prefix)
            self._check_loaded(
                (prefix + name for name in module.state_dict() if name not in own),
                (prefix + name for name, tensor in module.state_dict().items() if own[name].shape != tensor.shape),
            )
            module.load_state_dict(own, strict=False)
        digest = hashlib.sha256()
        for name in sorted(frozen):
            digest.update(name.encode())
            digest.update(frozen[name].contiguous().view(torch.uint8).numpy().tobytes())
        digest.update(str(dtype).encode())
        extractor = self.processor.feature_extractor
        return FrozenAudio(tower.to(dtype).eval(), adapter.to(dtype).eval(), extractor, digest.hexdigest())

    def load_policy(self, dtype: torch.dtype) -> nn.Module:
        """Load the whole model; tower and adapter do not require gradients."""
        check_weight_files("student.path", Path(self.path))
        policy: nn.Module
        try:
            policy, about = Qwen2AudioForConditionalGeneration.from_pretrained(
                self.path,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                # Told below, by name.
                ignore_mismatched_sizes=True,
            )
        except OSError as error:
            raise UserError(f"student.path {self.path}: cannot be loaded ({error}).") from None
        # transformers would fill these with random numbers and go on.
        self._check_loaded(map(_to_hub, about["missing_keys"]), (_to_hub(each[0]) for each in about["mismatched_keys"]))
        policy.eval()
        for name, parameter in policy.named_parameters():
            # safetensors maps the file into memory: written over in place, it would change the policy under us.
            parameter.data = parameter.data.clone()
            parameter.requires_grad_(not self.is_frozen(_to_hub(name)))
        return policy

    def language_model(self, policy: nn.Module) -> nn.Module:
        """The Qwen2 decoder."""
        decoder: nn.Module = policy.model.language_model  # type: ignore[union-attr,assignment]
        return decoder

    def output_head(self, policy: nn.Module) -> nn.Module:
        """The map from hidden states to logits."""
        head: nn.Module = policy.lm_head  # type: ignore[assignment]
        return head

    def hub_state(self, policy: nn.Module) -> dict[str, Tensor]:
        """The policy's tensors under the hub's names."""
        return {_to_hub(name): tensor.detach() for name, tensor in policy.state_dict().items()}

    def load_hub_state(self, policy: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors under hub names into the policy, in place."""
        own = self.hub_state(policy)
        unknown = sorted(set(tensors) - set(own))
        if unknown:
            raise KeyError(f"the policy has no tensor {unknown[0]!r}")
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)

    def vllm_audio(self, features: Tensor | None, waveform: NDArray[np.float32] | None) -> dict[str, Any]:
        """VLLM's `multi_modal_data` for one clip."""
        if features is not None:
            return {"audio": features.unsqueeze(0)}
        return {"audio": (waveform, self.sample_rate)}

    def _frozen_tensors(self) -> Iterator[tuple[str, Tensor]]:
        check_weight_files("student.path", Path(self.path))
        for file in sorted(Path(self.path).glob("*.safetensors")):
            with safe_open(file, framework="pt") as reader:
                for name in reader.keys():  # noqa: SIM118 (a reader is no mapping)
                    if self.is_frozen(name):
                        yield name, reader.get_tensor(name)

    def _check_loaded(self, missing: Iterable[str], mismatched: Iterable[str]) -> None:
        """Refuse a checkpoint for the first tensor, by its hub name, that it lacks or has in another shape."""
        lacking = min(missing, default=None)
        if lacking == HEAD and self.config.get_text_config().tie_word_embeddings:
            raise UserError(
                f"student.path {self.path}: has no {HEAD}, since its head is tied to its embeddings; that is not"
                " supported: save it with a head of its own and `tie_word_embeddings` false."
            )
        if lacking is not None:
            raise UserError(f"student.path {self.path}: lacks the tensor {lacking}; copy the checkpoint again.")
        other = min(mismatched, default=None)
        if other is not None:
            raise UserError(
                f"student.path {self.path}: the tensor {other} has another shape than its config.json tells; copy the"
                " checkpoint again."
            )


class FrozenAudio:
    """Tower and adapter of Qwen2-Audio; see `xopd.families.base.AudioEncoder`."""

    def __init__(self, tower: nn.Module, adapter: nn.Module, extractor: Any, fingerprint: str) -> None:
        """Hold the two modules, the mel extractor, and the fingerprint of their tensors."""
        self.tower = tower
        self.adapter = adapter
        self.extractor = extractor
        self.fingerprint = fingerprint

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        """Features of shape [audio tokens, hidden size], one tensor a clip."""
        inputs = self.extractor(
            list(waveforms),
            sampling_rate=self.extractor.sampling_rate,
            padding="max_length",
            return_attention_mask=True,
            return_tensors="pt",
        )
        mel, lengths = inputs["input_features"], inputs["attention_mask"].sum(-1)
        window = min(mel.shape[-1], int(lengths.max()) + CONVOLUTION_REACH)
        mel = mel[..., : window + window % 2].to(self.adapter.linear.weight.dtype)  # type: ignore[union-attr]
        tower: Any = self.tower
        frames = nn.functional.gelu(tower.conv2(nn.functional.gelu(tower.conv1(mel)))).transpose(1, 2)
        hidden = frames + tower.embed_positions.weight[: frames.shape[1]]
        # The window's last convolution output sees padding in the place of silence: it is never valid.
        valid = torch.arange(hidden.shape[1]) < ((lengths - 1) // 2 + 1)[:, None]
        mask = torch.zeros(valid.shape, dtype=hidden.dtype).masked_fill(~valid, torch.finfo(hidden.dtype).min)
        mask = mask[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)
        for layer in tower.layers:
            hidden = layer(hidden, mask)
        pooled = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
        features = self.adapter(tower.layer_norm(pooled))
        tokens = ((lengths - 1) // 2 + 1 - 2) // 2 + 1
        # Cloned: a slice would keep the whole batch's storage alive in a cache.
        return [features[i, : int(n)].clone() for i, n in enumerate(tokens)]


def _to_hub(name: str) -> str:
    for mine, hubs in TO_HUB:
        if name.startswith(mine):
            return hubs + name.removeprefix(mine)
    raise KeyError(f"tensor {name!r} has no place in a Qwen2-Audio checkpoint")


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
