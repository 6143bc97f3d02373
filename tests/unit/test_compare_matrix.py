"""The file of a comparison: the runs that follow from it, and every mistake in it as one sentence."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from xopd.cli.comparison.cells import begin, open_folder, write_manifest
from xopd.cli.comparison.matrix import plan_matrix, plan_search, read_comparison_file
from xopd.cli.comparison.run import command_line
from xopd.cli.comparison.search import choose_rates
from xopd.cli.comparison.view import LiveComparisonView, running_line, time_left
from xopd.errors import UserError

RUN = {
    "data": {"manifest": "items.jsonl"},
    "student": {"path": "student"},
    "teacher": {"path": "teacher"},
    "objective": {"advantage_clamp": 5.0},
}


def tree(**changes: Any) -> dict[str, Any]:
    return {
        "name": "c",
        "run": "run.yaml",
        "seeds": [0, 1],
        "reference": "xopd",
        "set": {"run.steps": 7},
        "entries": [
            {"name": "sft", "label": "SFT", "set": {"objective.method": "sft", "objective.advantage_clamp": None}},
            {"name": "xopd", "label": "X-OPD"},
            {"name": "text", "label": "λ = 0", "group": "ablation", "rate_of": "xopd", "set": {"objective.lambda": 0}},
        ],
        **changes,
    }


@pytest.fixture
def write(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("XOPD_"):
            monkeypatch.delenv(name)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))

    def _write(**changes: Any) -> Path:
        path = tmp_path / "compare.yaml"
        path.write_text(yaml.safe_dump(tree(**changes)))
        return path

    return _write


SEARCH = {"learning_rates": [1e-4, 2e-4], "seed": 9, "results": "found.json", "set": {"evals.every": 0}}


def only(settings: dict[str, Any]) -> dict[str, Any]:
    return {"name": "xopd", "label": "X", "set": settings}


def plan(path: Path, folder: Path, **options: Any) -> Any:
    return plan_matrix(read_comparison_file(path), path, directory=str(folder), **options)


def test_seeds_are_outermost_and_settings_resolved(write, tmp_path):
    matrix = plan(write(), tmp_path, overrides=["run.checkpoint_every=3"])
    assert [cell.name for cell in matrix.cells] == [
        f"{entry} seed {s}" for s in (0, 1) for entry in ("sft", "xopd", "text")
    ]
    sft, xopd, text = (cell.config for cell in matrix.cells[:3])
    assert (sft.objective.method, xopd.objective.method) == ("sft", "xopd")
    assert (sft.objective.advantage_clamp, xopd.objective.advantage_clamp) == (None, 5.0)
    assert (xopd.objective.lambda_, text.objective.lambda_) == (0.5, 0.0)
    assert {cell.config.run.steps for cell in matrix.cells} == {7}
    assert {cell.config.run.checkpoint_every for cell in matrix.cells} == {3}
    assert [cell.config.run.seed for cell in matrix.cells] == [0, 0, 0, 1, 1, 1]
    assert matrix.cells[4].folder == tmp_path / "c" / "cells" / "xopd" / "seed-1"
    assert [entry.name for entry in matrix.entries] == ["sft", "xopd", "text"]


def test_the_short_form(write, tmp_path):
    quick = {"entries": ["xopd"], "seeds": [4], "set": {"run.steps": 2}}
    matrix = plan(write(quick=quick), tmp_path, quick=True)
    assert [cell.name for cell in matrix.cells] == ["xopd seed 4"]
    assert matrix.cells[0].config.run.steps == 2
    assert matrix.folder.name == "c-quick"


def test_a_search_has_the_same_candidates_for_each(write, tmp_path):
    path = write(search=SEARCH)
    matrix = plan_search(read_comparison_file(path), path, directory=str(tmp_path))
    assert [(c.entry.name, c.config.optimiser.learning_rate, c.seed) for c in matrix.cells] == [
        ("sft-0.0001", 1e-4, 9), ("sft-0.0002", 2e-4, 9), ("xopd-0.0001", 1e-4, 9), ("xopd-0.0002", 2e-4, 9),
    ]  # fmt: skip
    assert matrix.folder.name == "c-search"


def write_summary(folder: Path, **scores: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    final = {part: {"accuracy": value, "n": 10} for part, value in scores.items()}
    (folder / "summary.json").write_text(json.dumps({"final": final}))


def test_what_a_search_chose_is_used(write, tmp_path):
    path = write(search=SEARCH)
    file = read_comparison_file(path)
    search = plan_search(file, path, directory=str(tmp_path / "runs"))
    cells = open_folder(search, overwrite=False)
    for progress, speech in zip(cells, (0.5, 0.6, 0.7, 0.2), strict=True):
        write_summary(progress.cell.folder, speech=speech, text=0.9, retention=0.9)
    found = json.loads(choose_rates(search, cells, "xopd compare").read_text())
    assert [trial["chosen"] for trial in found["trials"]] == [False, True, True, False]
    assert [trial["entry"] for trial in found["trials"]] == ["sft", "sft", "xopd", "xopd"]
    matrix = plan(path, tmp_path / "runs")
    assert [cell.config.optimiser.learning_rate for cell in matrix.cells[:3]] == [2e-4, 1e-4, 1e-4]


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"reference": "gkd"}, {}, "reference names gkd, and there is no such entry"),
        ({"seeds": []}, {}, "`seeds`: List should have at least 1 item"),
        ({"seeds": [1, 1]}, {}, "a seed stands twice"),
        ({"sets": {}}, {}, "`sets`: Extra inputs are not permitted"),
        ({"set": {"run.stepz": 1}}, {}, "`run.stepz` is not a setting"),
        ({"set": {"run.steps": -1}}, {}, "greater than or equal to 1"),
        (
            {"entries": [{"name": "xopd", "label": "X", "set": {"run.steps": 9}}]},
            {},
            "run.steps is shared by all entries",
        ),
        (
            {"entries": [{"name": "xopd", "label": "X", "set": {"objective.beta": 0.5}}]},
            {},
            "beta is not used by method",
        ),
        ({"entries": [{"name": "xopd", "label": "X"}] * 2}, {}, "entry xopd stands twice"),
        ({}, {"quick": True}, "has no `quick` section"),
        ({"search": SEARCH}, {}, "--search` first"),
        ({"run": "nowhere.yaml"}, {}, "there is no such configuration file"),
    ],
)
def test_a_mistake_is_one_sentence(write, tmp_path, changes, options, sentence):
    path = write(**changes)
    with pytest.raises(UserError) as caught:
        plan(path, tmp_path, **options)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    for name in ("list.yaml", "broken.yaml", "missing.yaml"):
        with pytest.raises(UserError, match=name):
            read_comparison_file(tmp_path / name)


def test_finished_runs_stay_and_other_settings_are_refused(write, tmp_path):
    path = write()
    matrix = plan(path, tmp_path / "runs")
    cells = open_folder(matrix, overwrite=False)
    assert not begin(cells[0], cells)
    write_summary(cells[0].cell.folder)
    assert [cell.state for cell in open_folder(matrix, overwrite=False)] == ["finished", *["waiting"] * 5]
    # More seeds are welcome; another budget for the same run is not.
    more = plan(write(seeds=[0, 1, 2]), tmp_path / "runs")
    assert [cell.state for cell in open_folder(more, overwrite=False)].count("finished") == 1
    other = plan(path, tmp_path / "runs", overrides=["run.steps=8"])
    with pytest.raises(UserError, match=r"run\.steps was 7, is 8.*--overwrite"):
        open_folder(other, overwrite=False)
    assert all(cell.state == "waiting" for cell in open_folder(other, overwrite=True))


def test_the_base_is_graded_once_and_the_teacher_once_each(write, tmp_path):
    entries = [
        {"name": "xopd", "label": "X"},
        {"name": "same", "label": "S"},
        {"name": "large", "label": "L", "set": {"teacher.path": "other"}},
    ]
    cells = open_folder(plan(write(entries=entries, seeds=[0]), tmp_path / "runs"), overwrite=False)
    evals = [cell.cell.folder / "evals" for cell in cells]
    begin(cells[0], cells)
    for label in ("base", "teacher"):
        (evals[0] / f"{label}.json").write_text(label)
    begin(cells[1], cells)
    begin(cells[2], cells)
    assert sorted(path.name for path in evals[1].iterdir()) == ["base.json", "teacher.json"]
    assert sorted(path.name for path in evals[2].iterdir()) == ["base.json"]


def test_the_manifest_names_everything(write, tmp_path):
    matrix = plan(write(), tmp_path / "runs")
    open_folder(matrix, overwrite=False)
    manifest = json.loads(write_manifest(matrix, {"command": "xopd compare"}).read_text())
    assert manifest["steps"] == 7
    assert manifest["seeds"] == [0, 1]
    assert [entry["method"] for entry in manifest["entries"]] == ["sft", "xopd", "xopd"]
    assert manifest["entries"][2]["settings"]["objective.lambda"] == 0.0
    assert manifest["entries"][1]["settings"]["objective.advantage_clamp"] == 5.0


def test_time_left_comes_from_runs_of_the_same_entry(write, tmp_path):
    cells = open_folder(plan(write(), tmp_path / "runs"), overwrite=False)
    assert time_left(cells, 1) is None
    cells[0].state, cells[0].seconds = "finished", 10.0  # sft
    cells[1].state, cells[1].seconds = "finished", 100.0  # xopd
    # text has nothing of its own yet: the mean, 55; then sft 10, xopd 100, text 55.
    assert time_left(cells, 1) == pytest.approx(55 + 10 + 100 + 55)
    assert time_left(cells, 2) == pytest.approx(110)
    cells[2].state, cells[2].phase, cells[2].step = "running", "training", 3
    assert running_line(cells[2]) == "text seed 0: training, step 3/7"


def test_the_live_view_shows_every_run(write, tmp_path):
    cells = open_folder(plan(write(), tmp_path / "runs"), overwrite=False)
    cells[0].state, cells[0].seconds = "finished", 61.0
    cells[1].state, cells[1].phase, cells[1].step = "running", "training", 3
    cells[2].state = "failed"
    console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
    view = LiveComparisonView(console, "c", cells, jobs=2)
    view.event("sft seed 0: finished in 61 s")
    console.print(view.render())
    text = console.export_text()
    for shown in (
        "1/6 runs",
        "● 1 min 01 s",
        "▸ 43 %",
        "✕",
        "λ = 0",
        "xopd seed 0: training, step 3/7",
        "finished in 61 s",
    ):
        assert shown in text


def test_the_command_can_be_repeated():
    assert (
        command_line("a b.yaml", ["x.y=1"], True, False, None, 2)
        == "xopd compare 'a b.yaml' --set x.y=1 --quick --jobs 2"
    )
