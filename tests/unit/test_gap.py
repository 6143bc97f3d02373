"""The share of the gap that is closed: given where the items tell the gap from none, and refused with a reason else."""

import pytest

from xopd.evals.gap import share_closed, speech_gap, why_no_share
from xopd.evals.intervals import PairedDifference


def answered(right: int, n: int) -> dict[str, bool]:
    return {f"item-{i}": i < right for i in range(n)}


def test_a_clear_gap_has_a_share():
    gap = speech_gap(answered(40, 100), answered(90, 100))
    assert gap is not None
    assert (gap.mean_difference, gap.n) == (pytest.approx(0.5), 100)
    assert share_closed(0.25, gap) == pytest.approx(0.5)
    assert share_closed(-0.1, gap) == pytest.approx(-0.2)
    assert why_no_share(gap.mean_difference, gap.ci95) == ""


@pytest.mark.parametrize("teacher", [40, 30])
def test_a_base_that_is_not_behind_has_none(teacher):
    gap = speech_gap(answered(40, 100), answered(teacher, 100))
    assert share_closed(0.25, gap) is None
    assert gap is not None
    assert "there is no gap to close" in why_no_share(gap.mean_difference, gap.ci95)


def test_a_gap_within_noise_has_none():
    # Right on 3 items that the base had wrong, wrong on 2 that it had right: 1 point, give or take about 4.
    base = {f"item-{i}": i < 50 for i in range(100)}
    teacher = {**base, "item-0": False, "item-1": False, "item-97": True, "item-98": True, "item-99": True}
    gap = speech_gap(base, teacher)
    assert gap is not None
    assert gap.mean_difference == pytest.approx(0.01)
    assert gap.ci95[0] < 0 < gap.ci95[1]
    assert share_closed(0.2, gap) is None
    assert "1.0 points at first (95 % interval −" in why_no_share(gap.mean_difference, gap.ci95)


def test_only_items_that_both_were_asked_count():
    gap = speech_gap({"a": False, "b": True}, {"a": True, "c": False})
    assert gap == PairedDifference(1.0, 1, (1.0, 1.0))
    assert speech_gap({"a": True}, {"b": True}) is None
    assert share_closed(0.1, None) is None
