"""What the training signal looked like, by modality: advantages, KL, ratios, overlap with the teacher, modality gap.

The same figures for training steps and for probes. What a method does not have (a supervised one has no advantages)
is null. So is `clipped_share` of a probe, which has no loss, and of a method whose loss has no limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xopd.objective import advantages, importance_ratio
from xopd.v1 import trajectory_pb2 as pb
from xopd_trainer.batch import ResponseTensors, ScoredGroup
from xopd_trainer.methods.base import PolicyReadout

NGRAM = 4
"""Length of the n-grams whose repeats count as repetition (seq-rep-4 of Welleck et al., arXiv 1908.04319)."""
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Of the polynomial hash of an n-gram, modulo 2^64: odd, its bits without a pattern (2^64 by the golden ratio)."""
Floats = NDArray[np.float32]


@dataclass
class SignalCollector:
    """Gathers one modality's tokens over the micro-batches of a step."""

    _tokens: dict[str, list[Floats]] = field(default_factory=dict)
    _lengths: list[int] = field(default_factory=list)
    _truncated: list[bool] = field(default_factory=list)
    _repetition: list[float] = field(default_factory=list)

    @torch.no_grad()
    def add(
        self,
        groups: Sequence[ScoredGroup],
        responses: ResponseTensors,
        policy: PolicyReadout,
        clipped: Tensor | None = None,
    ) -> None:
        """Add one micro-batch; `clipped` is that of `LossTerms`."""
        mask = responses.mask
        self._keep("entropy", policy.entropy, mask)
        if responses.behaviour_logprobs is None:
            self._keep("nll", -policy.logprobs, mask)
        else:
            self._keep("ratio", importance_ratio(policy.logprobs, responses.behaviour_logprobs), mask)
            if responses.teacher_logprobs is not None:
                self._keep("advantage", advantages(responses.teacher_logprobs, policy.logprobs), mask)
                self._keep("teacher_mass", responses.teacher_logprobs.exp(), mask)
        if clipped is not None:
            self._keep("clipped", clipped, mask)
        if policy.overlap is not None:
            self._keep("top_k_overlap", policy.overlap, mask)
        rows = [trajectory for group in groups for trajectory in group.trajectories]
        self._lengths += [len(row.token_ids) for row in rows]
        self._truncated += [row.truncated for row in rows]
        self._repetition += [repetition(row.token_ids) for row in rows]

    def add_gap(self, divergence: Tensor) -> None:
        """Add KL(π_θ(·|x_s) ‖ π_θ(·|x_t)) of the tokens of speech responses, shape [tokens], in nats."""
        self._tokens.setdefault("modality_gap", []).append(divergence.float().cpu().numpy())

    def advantage_values(self) -> Floats:
        """A_t of every sampled and scored token, shape [tokens], in nats."""
        return np.concatenate(self._tokens.get("advantage", [np.empty(0, dtype=np.float32)]))

    def summary(self) -> dict[str, Any]:
        """The modality's entry in a record of metrics.jsonl."""
        advantage = self.advantage_values()
        return {
            "advantage": _spread(advantage) if advantage.size else None,
            # E over π_θ's own samples of log π_θ - log π_T: the reverse KL, estimated.
            "kl": float(-advantage.mean()) if advantage.size else None,
            "ratio": self._ratio(),
            "nll": self._mean("nll"),
            "entropy": self._mean("entropy"),
            "teacher_mass": self._mean("teacher_mass"),
            "top_k_overlap": self._mean("top_k_overlap"),
            "modality_gap": self._mean("modality_gap"),
            "length": float(np.mean(self._lengths)),
            "truncated": float(np.mean(self._truncated)),
            "repetition": float(np.mean(self._repetition)),
            "tokens": int(sum(self._lengths)),
        }

    def _keep(self, name: str, values: Tensor, mask: Tensor) -> None:
        self._tokens.setdefault(name, []).append(values[mask].float().cpu().numpy())

    def _mean(self, name: str) -> float | None:
        return float(np.concatenate(self._tokens[name]).mean()) if name in self._tokens else None

    def _ratio(self) -> dict[str, float | None] | None:
        if "ratio" not in self._tokens:
            return None
        ratio = np.concatenate(self._tokens["ratio"])
        with np.errstate(invalid="ignore"):
            # Of a ratio that is infinite, which the step is skipped for, there is none.
            spread = ratio.std(dtype=np.float64)
        return {
            "mean": float(ratio.mean()),
            "std": float(spread),
            "max": float(ratio.max()),
            "clipped_share": self._mean("clipped"),
        }


def gap_groups(groups: Sequence[ScoredGroup], count: int) -> frozenset[str]:
    """The ids of the at most `count` speech groups of a batch on whose responses the modality gap is measured.

    Of the whole batch, whatever part of it is looked at: on every rank the same groups are measured.
    """
    spoken = sorted(group.group_id for group in groups if group.modality == pb.MODALITY_SPEECH)
    return frozenset(spoken[:count])


def repetition(token_ids: NDArray[np.integer[Any]]) -> float:
    """Share of a response's n-grams that occurred in it before; 0 where it is shorter than one.

    N-grams are told apart by a 64-bit hash of theirs: two different ones are taken for the same once in 2^64 pairs.
    """
    count = len(token_ids) - NGRAM + 1
    if count < 1:
        return 0.0
    ids = token_ids.astype(np.uint64)
    hashes = ids[:count]
    for offset in range(1, NGRAM):
        hashes = hashes * MULTIPLIER + ids[offset : offset + count]
    hashes.sort()
    return 1.0 - (1 + int(np.count_nonzero(hashes[1:] != hashes[:-1]))) / count


def _spread(values: Floats) -> dict[str, float]:
    low, middle, high = np.percentile(values, [5, 50, 95])
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "p5": float(low),
        "p50": float(middle),
        "p95": float(high),
    }
