"""What a step's training signal looked like, by modality: advantages, KL, ratios, entropy, lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xopd_trainer.batch import ScoredGroup


@dataclass
class SignalCollector:
    """Gathers one modality's tokens over the micro-batches of a step."""

    advantages: list[NDArray[np.float32]] = field(default_factory=list)
    ratios: list[NDArray[np.float32]] = field(default_factory=list)
    entropies: list[NDArray[np.float32]] = field(default_factory=list)
    clipped: list[NDArray[np.float32]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)

    def add(
        self,
        groups: Sequence[ScoredGroup],
        mask: Tensor,
        advantage: Tensor,
        ratio: Tensor,
        clipped: Tensor,
        entropy: Tensor,
    ) -> None:
        """Add one micro-batch; the tensors have the shape [responses, tokens]."""
        for values, tensor in (
            (self.advantages, advantage),
            (self.ratios, ratio),
            (self.clipped, clipped),
            (self.entropies, entropy),
        ):
            values.append(tensor[mask].float().cpu().numpy())
        for group in groups:
            self.lengths += [len(t.token_ids) for t in group.trajectories]
            self.truncated += [t.truncated for t in group.trajectories]

    def advantage_values(self) -> NDArray[np.float32]:
        """A_t of every token, shape [tokens], in nats."""
        return np.concatenate(self.advantages)

    def summary(self) -> dict[str, Any]:
        """The modality's entry in a step record of metrics.jsonl."""
        advantage, ratio = self.advantage_values(), np.concatenate(self.ratios)
        low, middle, high = np.percentile(advantage, [5, 50, 95])
        return {
            "advantage": {
                "mean": float(advantage.mean()),
                "std": float(advantage.std()),
                "p5": float(low),
                "p50": float(middle),
                "p95": float(high),
            },
            # E over π_θ's own samples of log π_θ - log π_T: the reverse KL, estimated.
            "kl": float(-advantage.mean()),
            "ratio": {
                "mean": float(ratio.mean()),
                "max": float(ratio.max()),
                "clipped_share": float(np.concatenate(self.clipped).mean()),
            },
            "entropy": float(np.concatenate(self.entropies).mean()),
            "length": float(np.mean(self.lengths)),
            "truncated": float(np.mean(self.truncated)),
            "tokens": int(advantage.size),
        }
