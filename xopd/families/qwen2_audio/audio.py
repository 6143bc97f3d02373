"""The frozen half of Qwen2-Audio: a Whisper-like tower and a linear adapter.

The tower is made for 30-second windows. Clips are shorter; their valid frames attend to valid frames only, so a
window trimmed to the longest clip of the batch (plus the convolutions' reach) gives the same features for less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder, Qwen2AudioMultiModalProjector

from xopd.families.checkpoint_files import check_weight_files
from xopd.families.qwen2_audio.prompt import tokens_of_frames
from xopd.families.qwen2_audio.weights import FROZEN_PREFIXES, is_frozen, refuse_incomplete
from xopd.families.tensors import bytes_of

CONVOLUTION_REACH = 4
"""Mel frames beyond a clip's end that its last valid output can see through the two convolutions."""


class FrozenAudio:
    """Tower and adapter; see `xopd.data.features.AudioEncoder`."""

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
        # Cloned: a slice would keep the whole batch's storage alive in a cache.
        return [features[i, : tokens_of_frames(int(n))].clone() for i, n in enumerate(lengths)]


def load_frozen_audio(path: str, config: Any, extractor: Any, dtype: torch.dtype) -> FrozenAudio:
    """Load tower and adapter alone from the checkpoint at `path`.

    Raises:
        UserError: if it lacks one of their tensors, or has it in another shape than `config` tells.
    """
    tower = Qwen2AudioEncoder(config.audio_config)
    adapter = Qwen2AudioMultiModalProjector(config)
    frozen = dict(_frozen_tensors(path))
    for prefix, module in zip(FROZEN_PREFIXES, (tower, adapter), strict=True):
        own = _under(frozen, prefix)
        refuse_incomplete(
            path,
            config,
            (prefix + name for name in module.state_dict() if name not in own),
            (prefix + name for name, tensor in module.state_dict().items() if own[name].shape != tensor.shape),
        )
        module.load_state_dict(own, strict=False)
    digest = hashlib.sha256()
    for name in sorted(frozen):
        digest.update(name.encode())
        digest.update(bytes_of(frozen[name]))
    digest.update(str(dtype).encode())
    return FrozenAudio(tower.to(dtype).eval(), adapter.to(dtype).eval(), extractor, digest.hexdigest())


def _frozen_tensors(path: str) -> Iterator[tuple[str, Tensor]]:
    check_weight_files("student.path", Path(path))
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, framework="pt") as reader:
            for name in reader.keys():  # noqa: SIM118 (a reader is no mapping)
                if is_frozen(name):
                    yield name, reader.get_tensor(name)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
