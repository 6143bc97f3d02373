"""Confidence intervals: of one accuracy, of a mean over items, and of a difference over the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its 95 % interval (Wilson's score interval)."""

    accuracy: float
    n: int
    ci95: tuple[float, float]

    def as_json(self) -> dict[str, object]:
        """The form that summary.json and metrics.jsonl hold."""
        return {"accuracy": self.accuracy, "n": self.n, "ci95": list(self.ci95)}


def accuracy_of(correct: Sequence[bool]) -> Accuracy:
    """Accuracy over items, with Wilson's 95 % score interval (E. B. Wilson, 1927).

    Raises:
        ValueError: without items.
    """
    n = len(correct)
    if n == 0:
        raise ValueError("an accuracy needs items")
    p = sum(correct) / n
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return Accuracy(p, n, (max(0.0, centre - half), min(1.0, centre + half)))


@dataclass(frozen=True)
class PairedDifference:
    """Mean of (after - before) over the same items, with its 95 % percentile bootstrap interval."""

    mean_difference: float
    n: int
    ci95: tuple[float, float]

    def as_json(self) -> dict[str, object]:
        """The form that summary.json holds."""
        return {"mean_difference": self.mean_difference, "n": self.n, "ci95": list(self.ci95)}


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], seed: int = 0, resamples: int = 10_000
) -> PairedDifference:
    """Paired bootstrap over items (B. Efron, 1979).

    Args:
        before: right or wrong for each item, before; or the share of several runs that are right.
        after: the same items in the same order, after.
        seed: seed of the resampling.
        resamples: bootstrap samples.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"paired items are needed, not {len(before)} and {len(after)}")
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return PairedDifference(
        float(difference.mean()), len(difference), bootstrap_mean(difference.tolist(), seed, resamples)
    )


def bootstrap_mean(values: Sequence[float], seed: int = 0, resamples: int = 10_000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over items.

    Raises:
        ValueError: without items.
    """
    if not values:
        raise ValueError("a bootstrap needs items")
    n = len(values)
    # Items take few different values, such as -1, 0 and +1: resampling their counts is resampling the items.
    distinct, counts = np.unique(np.round(np.asarray(values, dtype=np.float64), 12), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    low, high = np.percentile(drawn @ distinct / n, [2.5, 97.5])
    return float(low), float(high)
