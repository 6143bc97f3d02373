"""What the verdict says, case by case."""

from __future__ import annotations

import dataclasses

import pytest

from tests.unit.synthetic_comparison import BASE, write_comparison
from xopd.evals.intervals import PairedDifference
from xopd.report.comparison.read import read_comparison
from xopd.report.comparison.statistics import figures_of
from xopd.report.comparison.verdict import headline, proves_something, verdict

METHODS = ["sft-foreign", "sft", "offline-kd", "gkd", "xopd"]


def told(folder, **options):
    comparison = read_comparison(write_comparison(folder, **{"names": METHODS, **options}))
    figures = figures_of(comparison)
    return headline(figures), " ".join(verdict(figures))


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return told(tmp_path_factory.mktemp("comparison") / "usual", spread=0.0)


def test_the_share_of_the_gap_stands_first_with_its_spread(usual):
    head, text = usual
    assert head == "X-OPD (λ = 0.5) closes 60 % of the gap between speech and the text-only teacher"
    assert text.startswith("Asked by voice, the student goes from 36.0 % right to 74.0 %")
    assert "closes 60 % of the gap (mean over 3 seeds, which range from 60 % to 60 %)" in text
    assert "smoke test" not in text


def test_it_says_which_baselines_degraded_and_which_did_not(usual):
    _, text = usual
    assert "that is so for SFT, foreign style (speech −7.0, text −23.0, retention −28.0)" in text
    assert "in part for SFT, own style (speech +20.0" in text
    assert "not so for GKD (speech +35.0" in text


def test_no_baseline_degraded(tmp_path):
    better = {"speech": 0.6, "text": 0.96, "retention": 0.97}
    _, text = told(tmp_path, final=dict.fromkeys(METHODS[:-1], better), seeds=[0, 1, 2], spread=0.0)
    assert "not so for SFT, foreign style" in text
    assert "that is so for" not in text
    assert "in part" not in text


def test_text_below_the_base_is_said(tmp_path):
    _, text = told(tmp_path / "a", final={"xopd": {"speech": 0.7, "text": 0.85, "retention": 0.9}}, names=["xopd"])
    assert "text score falls below the base student’s" in text
    assert "is lost" in text
    assert "over 3 points below the base" in text
    slightly = {"xopd": {**BASE, "speech": 0.7, "text": BASE["text"] - 0.01}}
    _, text = told(tmp_path / "b", final=slightly, names=["xopd"], spread=0.0)
    assert "slightly below the base student’s, by no more than chance" in text


def test_text_and_retention_kept(usual):
    _, text = usual
    assert "text score is not below the base student’s" in text
    assert "is kept: −0.7 points, within 3 points of the base" in text


def test_differences_and_the_spread_over_seeds(tmp_path):
    like_gkd = {"gkd": {"speech": 0.74, "text": 0.97, "retention": 0.95}}
    _, text = told(tmp_path / "a", final=like_gkd, spread=0.01)
    assert "every seed of X-OPD (λ = 0.5) lies above every seed of SFT, foreign style (by" in text
    assert "In speech it cannot be told from GKD" in text
    assert "in 10 % of cases" in text  # 2 / C(6, 3)
    best = {"gkd": {"speech": 0.9, "text": 0.99, "retention": 0.95}}
    _, text = told(tmp_path / "b", final=best, spread=0.002)
    assert "every seed of X-OPD (λ = 0.5) lies below every seed of GKD" in text
    assert "With every seed above X-OPD (λ = 0.5) lies GKD in text (by" in text


def test_one_seed_is_a_smoke_test(tmp_path):
    head, text = told(tmp_path, seeds=[0])
    assert head.startswith("A smoke test of 5 trainings")
    assert text.startswith("This is a smoke test, since it holds 1 seed: ")
    assert "(one seed)" in text
    assert "the spread over seeds is unknown" in text
    assert "rests on 1 seed and on" in text


def test_the_short_form_is_a_smoke_test_with_any_seeds(tmp_path):
    _, text = told(tmp_path, quick=True, names=["xopd"])
    assert text.startswith("This is a smoke test, since it was run in the short form: ")


def test_a_gap_that_widens_is_not_called_closed(tmp_path):
    head, text = told(tmp_path, final={"xopd": {**BASE, "speech": 0.3}}, spread=0.0)
    assert head == "X-OPD (λ = 0.5) does not narrow the gap between speech and the text-only teacher"
    assert "closes none of the gap: the share is −10 %" in text


def test_limits_are_always_said(usual):
    _, text = usual
    assert "rests on 3 seeds and on a model of a few million parameters. It cannot show how large the effect is" in text
    assert "bounded at about 98.3 %" in text


def test_nothing_finished_concludes_nothing(tmp_path):
    names = ["xopd", "sft"]
    unfinished = [("xopd", seed) for seed in range(3)]
    comparison = read_comparison(write_comparison(tmp_path, names=names, unfinished=unfinished))
    figures = figures_of(comparison)
    assert "nothing to conclude" in verdict(figures)[0]
    assert not proves_something(figures)
    assert "not finished" in headline(figures)


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (PairedDifference(-0.01, 300, (-0.03, 0.01)), "there is no gap to close"),
        (
            PairedDifference(0.013, 300, (-0.009, 0.035)),
            "1.3 points at first (95 % interval −0.9 to 3.5), may be chance",
        ),
        (None, "no share of the gap is given"),
    ],
)
def test_a_base_that_is_not_behind_is_not_called_unfinished(tmp_path, gap, words):
    comparison = read_comparison(write_comparison(tmp_path, names=["xopd", "sft"]))
    figures = figures_of(comparison)
    none = [dataclasses.replace(entry, gap_closed=None) for entry in figures.entries]
    figures = dataclasses.replace(figures, entries=none, gap=gap)
    head = headline(figures)
    assert words in head and "not finished" not in head
    text = " ".join(verdict(figures))
    assert text.startswith("Asked by voice, the student goes from 36.0 % right to") and words[1:] in text
    assert "of the gap (" not in text


def test_unfinished_trainings_are_counted(tmp_path):
    _, text = told(tmp_path, names=["xopd", "gkd"], skip=[("gkd", 2)], unfinished=[("gkd", 1)])
    assert "2 of 6 trainings are not finished and count nowhere." in text
