"""Confidence intervals: of one accuracy, and of the difference between two runs over the same items."""

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
    before: Sequence[bool], after: Sequence[bool], seed: int = 0, resamples: int = 10_000
) -> PairedDifference:
    """Paired bootstrap over items (B. Efron, 1979).

    Args:
        before: right or wrong for each item, before.
        after: the same items in the same order, after.
        seed: seed of the resampling.
        resamples: bootstrap samples.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"paired items are needed, not {len(before)} and {len(after)}")
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    rng = np.random.default_rng(seed)
    n = len(difference)
    # Only the counts of -1, 0 and +1 matter: resampling them is resampling the items.
    shares = [float((difference == value).mean()) for value in (-1.0, 0.0, 1.0)]
    counts = rng.multinomial(n, shares, size=resamples)
    means = (counts[:, 2] - counts[:, 0]) / n
    low, high = np.percentile(means, [2.5, 97.5])
    return PairedDifference(float(difference.mean()), n, (float(low), float(high)))
