"""Replicas of one teacher must give the same scores: their log-probabilities of a fixed batch are compared.

A name and a vocabulary do not tell two checkpoints apart, such as a model and its earlier version in folders of the
same name. The batch is `xopd_teacher/engines/probe.py`'s; each teacher tells its log-probabilities of it in Info.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xopd.scoring.answers import is_logprob
from xopd.v1 import teacher_pb2 as pb

REPLICA_TOLERANCE = 0.1
"""Largest mean absolute difference (nats) between two replicas' log-probabilities of the same tokens. In bfloat16 other
cards, kernels and batches differ by about 0.03; other weights by far more."""


@dataclass(frozen=True)
class Reference:
    """What the other pods are compared with: the first one that was admitted and told its log-probabilities."""

    address: str
    logprobs: NDArray[np.float32]
    """Natural logarithm, one for each token of the probe."""


def probe_of(info: pb.InfoResponse, address: str) -> Reference | None:
    """What the pod at `address` told of the probe; None for an older teacher, which tells nothing."""
    if not info.probe_logprobs:
        return None
    return Reference(address, np.fromiter(info.probe_logprobs, dtype=np.float32))


def probe_problem(found: Reference | None, expected: Reference | None) -> str | None:
    """Why a pod that told `found` must not be used beside the one that told `expected`, as a clause; None if it may.

    A pod that told nothing is passed over.
    """
    if found is None:
        return None
    wrong = found.logprobs[~is_logprob(found.logprobs)]
    if len(wrong):
        return f"{wrong[0]} is among its log-probabilities of a fixed batch: serve a checkpoint that is whole"
    if expected is None:
        return None
    other = "those that it gave before" if expected.address == found.address else f"those of {expected.address}"
    if len(found.logprobs) != len(expected.logprobs):
        return (
            f"tells {len(found.logprobs)} log-probabilities of a fixed batch, beside {len(expected.logprobs)} of"
            f" {other}: run the same version of the teacher everywhere"
        )
    apart = mean_difference(found.logprobs, expected.logprobs)
    if apart <= REPLICA_TOLERANCE:
        return None
    return (
        f"its log-probabilities of a fixed batch differ from {other} by {apart:.3g} nats in the mean,"
        f" {REPLICA_TOLERANCE:g} is allowed: serve the same checkpoint everywhere"
    )


def mean_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Mean absolute difference of log-probabilities of the same tokens (nats)."""
    return float(np.abs(a.astype(np.float64) - b).mean())
