"""The gap by voice: how far the base student's speech score lies below the teacher's text score, and its closed share.

The share is the headline of a run, and a quotient: where its denominator may be nothing it says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from xopd.evals.intervals import PairedDifference, paired_bootstrap


def speech_gap(base: Mapping[str, float], teacher: Mapping[str, float]) -> PairedDifference | None:
    """The teacher's text score minus the base's speech score, over the items that both were asked.

    Args:
        base: right or wrong by item id, asked by voice.
        teacher: the same, asked by text.

    Returns:
        None where no item was asked of both.
    """
    shared = sorted(base.keys() & teacher.keys())
    if not shared:
        return None
    return paired_bootstrap([base[item] for item in shared], [teacher[item] for item in shared])


def share_closed(gained: float, gap: PairedDifference | None) -> float | None:
    """The share of `gap` that a gain in the speech score closes: 1 is the teacher's score, below 0 is a loss.

    None where there is no gap that the items can tell from none: its 95 % interval reaches 0.
    """
    if gap is None or gap.ci95[0] <= 0:
        return None
    return gained / gap.mean_difference


def why_no_share(mean_difference: float, ci95: tuple[float, float] | None) -> str:
    """Why `share_closed` is None for such a gap, as a sentence without its full stop; empty where it is not."""
    if mean_difference <= 0:
        return "by voice the base student is not behind the text-only teacher, so there is no gap to close"
    if ci95 is None or ci95[0] > 0:
        return ""
    low, high = (f"{100 * bound:.1f}".replace("-", "−") for bound in ci95)
    return (
        f"the gap to the text-only teacher, {100 * mean_difference:.1f} points at first (95 % interval {low} to"
        f" {high}), may be chance, so no share of it is given"
    )
