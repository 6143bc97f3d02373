"""The audio tower: Qwen2-Audio's own encoder at a small size, its exact trimmed encoding, and the CTC probe.

Transformers and vLLM always encode a 30-second window. `encode` computes the same outputs on a window cut to the
longest clip plus a margin: attention never looks past a clip's end, so only the two convolutions can see further,
and four mel frames of silence are all that they see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig, WhisperFeatureExtractor

from .speech import SAMPLE_RATE

MEL_BINS, HOP = 80, 160
MARGIN_FRAMES = 4  # mel frames of silence kept after each clip: more than the convolutions reach

# Frames (20 ms) that each head of each layer looks away from its own position before any training.
HEAD_OFFSETS = ((-3, -1, 1, 3), (-6, -2, 2, 6), (-12, -4, 4, 12), (-8, 0, 8, 16))


def tower_config(width: int = 128, layers: int = 4, heads: int = 4, ffn: int = 512) -> Qwen2AudioEncoderConfig:
    """The tower's size: under a million trained weights."""
    return Qwen2AudioEncoderConfig(
        num_mel_bins=MEL_BINS,
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=ffn,
        max_source_positions=1500,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        encoder_layerdrop=0.0,
    )


def feature_extractor() -> WhisperFeatureExtractor:
    """The feature extractor saved with the student: 80 mel bins, hop 10 ms, the 30-second window vLLM insists on."""
    return WhisperFeatureExtractor(
        feature_size=MEL_BINS, sampling_rate=SAMPLE_RATE, hop_length=HOP, chunk_length=30, n_fft=400
    )


def sinusoids(positions: int, width: int) -> Tensor:
    """Whisper's fixed position table [positions, width]: sines of all frequencies, then cosines."""
    rates = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(positions)[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@torch.no_grad()
def new_tower(seed: int) -> Qwen2AudioEncoder:
    """A fresh tower whose heads attend near by.

    Attention over absolute sinusoids takes thousands of steps to discover "look a few frames to the left". A query
    that is the position code rotated by `offset` frames says exactly that from the first step: its product with
    the key peaks `offset` frames away. Training is free to change it.
    """
    torch.manual_seed(seed)
    tower = Qwen2AudioEncoder(tower_config())
    config = tower.config
    width, heads = config.d_model, config.encoder_attention_heads
    head_dim, half = width // heads, width // 2
    tower.embed_positions.weight.copy_(sinusoids(config.max_source_positions, width))
    rates = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    pairs = torch.arange(head_dim // 2)  # the fastest frequencies: a peak a few frames wide
    gain = math.sqrt(2.0)
    for layer, offsets in zip(tower.layers, HEAD_OFFSETS, strict=True):
        attention: Any = layer.self_attn
        for projection in (attention.v_proj, attention.out_proj, layer.fc1, layer.fc2):
            nn.init.xavier_uniform_(projection.weight)
        for head, offset in enumerate(offsets):
            rows = slice(head * head_dim, (head + 1) * head_dim)
            query, key = torch.zeros(head_dim, width), torch.zeros(head_dim, width)
            key[2 * pairs, pairs] = key[2 * pairs + 1, half + pairs] = gain
            cos, sin = (rates[pairs] * offset).cos() * gain, (rates[pairs] * offset).sin() * gain
            query[2 * pairs, pairs], query[2 * pairs, half + pairs] = cos, sin
            query[2 * pairs + 1, half + pairs], query[2 * pairs + 1, pairs] = cos, -sin
            attention.q_proj.weight[rows] += query
            attention.k_proj.weight[rows] += key
    nn.init.kaiming_uniform_(tower.conv1.weight, nonlinearity="relu")
    nn.init.kaiming_uniform_(tower.conv2.weight, nonlinearity="relu")
    return tower


def mel_features(extractor: WhisperFeatureExtractor, clips: Sequence[npt.NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    """Log-mel features [clips, 80, frames] on a window trimmed to the longest clip, and each clip's frames [clips].

    Equal to the first frames of the full 30-second window's features: what is left out is silence, and silence
    changes neither a frame's own value nor the clip's maximum, from which the floor is taken.
    """
    lengths = torch.tensor([-(-len(clip) // HOP) for clip in clips])
    window = (int(lengths.max()) + MARGIN_FRAMES) * HOP
    features = extractor(
        list(clips), sampling_rate=SAMPLE_RATE, padding="max_length", max_length=window, return_tensors="pt"
    )
    return features.input_features, lengths


def encode_mel(tower: Qwen2AudioEncoder, mel: Tensor, mel_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The tower's outputs [clips, tokens, width] at 25 a second, and how many are a clip's own [clips].

    `mel` [clips, 80, frames] must hold `MARGIN_FRAMES` frames of silence after the longest clip.
    """
    conv_lengths = (mel_lengths - 1) // 2 + 1
    hidden = nn.functional.gelu(tower.conv1(mel))
    hidden = nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)
    steps = 2 * (int(conv_lengths.max()) // 2 + 1)  # even, so that the pooling pairs are those of the full window
    hidden = hidden[:, :steps]
    steps = hidden.shape[1]
    hidden = hidden + tower.embed_positions.weight[:steps].to(hidden.dtype)
    mask = (torch.arange(steps)[None] < conv_lengths[:, None])[:, None, None].expand(-1, 1, steps, -1)
    for layer in tower.layers:
        hidden = layer(hidden, mask)
    hidden = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
    return tower.layer_norm(hidden), (conv_lengths - 2) // 2 + 1


@torch.no_grad()
def encode(
    tower: Qwen2AudioEncoder, extractor: WhisperFeatureExtractor, clips: Sequence[npt.NDArray[np.float32]]
) -> list[Tensor]:
    """For each 16 kHz clip [samples] the tower's outputs [tokens, width], as from the full 30-second window."""
    mel, lengths = mel_features(extractor, clips)
    outputs, counts = encode_mel(tower, mel, lengths)
    return [output[:count] for output, count in zip(outputs, counts.tolist(), strict=True)]


class Probe(nn.Module):
    """Linear heads on the tower's outputs: words by CTC (class 0 is the blank) and four traits of the voice."""

    TRAITS = ("british", "pitch", "rate", "gain_db")

    def __init__(self, width: int, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.words = nn.Linear(width, len(self.vocabulary) + 1)
        self.traits = nn.Linear(width, len(self.TRAITS))

    def transcripts(self, outputs: Tensor, counts: Tensor) -> list[str]:
        """Greedy transcripts of outputs [clips, tokens, width]: best class a step, repeats and blanks removed."""
        best = self.words(outputs).argmax(-1)
        texts = []
        for row, count in zip(best, counts.tolist(), strict=True):
            kept = torch.unique_consecutive(row[:count])
            texts.append(" ".join(self.vocabulary[i - 1] for i in kept.tolist() if i))
        return texts
