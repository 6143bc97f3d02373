"""Statistics of a comparison against values computed by hand, and what missing cells do to them."""

from __future__ import annotations

import json
import math

import pytest

from tests.unit.synthetic_comparison import write_cell, write_comparison, write_verdicts
from xopd.errors import UserError
from xopd.evals.intervals import bootstrap_mean, paired_bootstrap
from xopd.report.comparison.charts import band_of
from xopd.report.comparison.read import read_comparison
from xopd.report.comparison.statistics import drop, figures_of, item_means, over_seeds, ranges_apart


def write_by_hand(folder, finals, base, teacher):
    """A comparison of one entry, whose items are given by hand: right or wrong by seed."""
    for seed, final in enumerate(finals):
        cell = folder / "cells" / "xopd" / f"seed-{seed}"
        write_cell(cell, "xopd", seed, dict.fromkeys(("speech", "text", "retention"), 0.5), steps=4)
        for label, part, verdicts in (
            ("teacher", "text", teacher),
            ("base", "speech", base),
            ("final", "speech", final),
        ):
            items = [{"item_id": str(i), "response": "", "correct": bool(c)} for i, c in enumerate(verdicts)]
            (cell / "evals" / f"{label}.json").write_text(json.dumps({part: items}))
    manifest = {"seeds": list(range(len(finals))), "entries": [{"name": "xopd"}], "steps": 4}
    (folder / "comparison.json").write_text(json.dumps(manifest))
    return figures_of(read_comparison(folder))


def test_mean_deviation_and_range_over_seeds():
    found = over_seeds([0.5, 0.6, 0.7])
    assert found.mean == pytest.approx(0.6)
    assert found.sd == pytest.approx(0.1)  # sqrt((0.01 + 0 + 0.01) / 2)
    assert (found.low, found.high, found.n) == (0.5, 0.7, 3)
    assert over_seeds([0.5]).sd is None
    assert over_seeds([]) is None


def test_drop_gap_and_pairs_by_hand(tmp_path):
    finals = [[1, 1, 1, 0, 0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0, 1, 1, 0]]
    base = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    teacher = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    figures = write_by_hand(tmp_path, finals, base, teacher)
    found = figures.of("xopd")
    assert figures.teacher.accuracy == 0.8
    assert figures.base_drops == {"speech": pytest.approx(75.0)}
    assert found.scores["speech"].values == (0.4, 0.6)
    assert found.scores["speech"].sd == pytest.approx(math.sqrt(0.02))
    assert found.drops["speech"].values == (pytest.approx(50.0), pytest.approx(25.0))
    assert found.gap_closed.values == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found.paired["speech"].mean_difference == pytest.approx(0.3)
    assert found.paired["speech"].n == 10
    low, high = found.paired["speech"].ci95
    assert 0.0 < low < 0.3 < high < 0.7


def test_item_means_hold_the_items_that_all_runs_answered():
    runs = [{"a": True, "b": False, "c": True}, {"a": True, "b": True}]
    assert item_means(runs) == {"a": 1.0, "b": 0.5}
    assert item_means([]) == {}


def test_the_bootstrap_takes_shares_and_agrees_with_theory():
    values = [0.0, 1 / 3, 2 / 3, 1.0] * 50
    low, high = bootstrap_mean(values)
    half = 1.96 * math.sqrt(5 / 36 / 200)  # the variance of 0, 1/3, 2/3, 1 is 5/36
    assert (low, high) == (pytest.approx(0.5 - half, abs=0.006), pytest.approx(0.5 + half, abs=0.006))
    same = paired_bootstrap([0.5, 0.25], [0.5, 0.25])
    assert same.ci95 == (0.0, 0.0)
    with pytest.raises(ValueError, match="items"):
        bootstrap_mean([])


def test_ranges_and_drops():
    low, high = over_seeds([0.1, 0.2]), over_seeds([0.3, 0.4])
    assert ranges_apart(low, high)
    assert ranges_apart(high, low)
    assert not ranges_apart(low, over_seeds([0.15, 0.4]))
    assert drop(0.8, 0.6) == pytest.approx(25.0)


def test_a_band_holds_the_steps_that_all_seeds_have():
    mean, band = band_of([{0: 1.0, 5: 2.0, 10: 3.0}, {0: 3.0, 5: 4.0}, {}])
    assert mean == {0: 2.0, 5: 3.0}
    assert band == {0: (1.0, 3.0), 5: (2.0, 4.0)}
    assert band_of([{}]) == ({}, {})
    assert band_of([{0: 1.0}, {5: 1.0}]) == ({}, {})


def test_the_reference_teacher_counts_for_all(tmp_path):
    write_comparison(tmp_path, seeds=[0], names=["xopd", "larger-teacher"], spread=0.0)
    figures = figures_of(read_comparison(tmp_path))
    assert figures.teacher.accuracy == pytest.approx(0.99)
    larger = figures.of("larger-teacher")
    assert larger.teacher.accuracy > 0.99
    assert figures.of("xopd").teacher is None
    assert larger.drops["speech"].mean == pytest.approx(100 * (0.99 - 0.66) / 0.99)


def test_missing_and_unfinished_cells_leave_fewer_seeds(tmp_path):
    write_comparison(tmp_path, skip=[("gkd", 0), ("sft", 0), ("sft", 1), ("sft", 2)], unfinished=[("gkd", 2)])
    (tmp_path / "cells/xopd/seed-1/evals/final.json").write_text('{"speech": [')
    comparison = read_comparison(tmp_path)
    figures = figures_of(comparison)
    assert figures.of("gkd").seeds == (1,)
    assert figures.of("gkd").scores["speech"].sd is None
    assert figures.of("sft").scores == {}
    assert figures.of("xopd").seeds == (0, 2)
    missing = {entry.name: seeds for entry, seeds in comparison.unfinished}
    assert missing == {"gkd": [0, 2], "sft": [0, 1, 2], "xopd": [1]}


def test_a_part_that_was_not_evaluated_is_left_out(tmp_path):
    write_comparison(tmp_path, seeds=[0], names=["xopd"])
    write_verdicts(tmp_path / "cells/xopd/seed-0", "final", {"speech": 0.5})
    assert set(figures_of(read_comparison(tmp_path)).of("xopd").scores) == {"speech"}


def test_what_is_no_comparison_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_comparison(tmp_path / "none")
    with pytest.raises(UserError, match=r"no comparison\.json"):
        read_comparison(tmp_path)
    path = tmp_path / "comparison.json"
    for text, said in (
        ("{", "cannot be read"),
        ('{"entries": []}', "`entries`"),
        ('{"entries": [{"name": "a"}, {"name": "a"}]}', "the same name"),
        ('{"entries": [{"name": "a"}], "reference": "b"}', "no entry is named 'b'"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            read_comparison(tmp_path)
