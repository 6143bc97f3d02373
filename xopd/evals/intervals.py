"""Confidence intervals: of one accuracy, of a mean over items, and of a difference over the same items.

scipy.stats takes long to import: it is loaded by the first interval, not with the module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
DRAWN_AT_ONCE = 2**20
"""Items drawn at a time by the bootstrap, which bounds its memory."""


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
    from scipy.stats import binomtest

    n = len(correct)
    if n == 0:
        raise ValueError("an accuracy needs items")
    right = sum(correct)
    low, high = binomtest(right, n).proportion_ci(LEVEL, method="wilson")
    return Accuracy(right / n, n, (float(low), float(high)))


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
    """95 % percentile bootstrap interval of the mean over items; of a single item, its value twice.

    Raises:
        ValueError: without items.
    """
    from scipy.stats import bootstrap

    if not values:
        raise ValueError("a bootstrap needs items")
    if len(values) == 1:
        return float(values[0]), float(values[0])
    low, high = bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=resamples,
        batch=max(1, DRAWN_AT_ONCE // len(values)),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(low), float(high)
