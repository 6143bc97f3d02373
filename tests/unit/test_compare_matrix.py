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

from xopd.comparison.cells import begin, open_folder, write_manifest
from xopd.comparison.matrix import plan_matrix, plan_search, read_comparison_file
from xopd.comparison.run import choose_rates, command_line
from xopd.comparison.view import ComparisonView, running_line, time_left
from xopd.config.checkpoints import HubId
from xopd.errors import UserError
from xopd.families.hub import Checkpoints, Found

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
    assert not hasattr(sft.objective, "advantage_clamp") and xopd.objective.advantage_clamp == 5.0
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
    found = json.loads(choose_rates(search, cells, "xopd compare")[1].read_text())
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
            "`objective.beta`: is not used by method xopd, only by gkd; leave it out.",
        ),
        ({"entries": [{"name": "xopd", "label": "X"}] * 2}, {}, "entry xopd stands twice"),
        ({}, {"quick": True}, "has no `quick` section"),
        ({"search": SEARCH}, {}, "--search` first"),
        ({"search": {**SEARCH, "learning_rates": [1e-4, 2e-4, 0.0001]}}, {}, "learning_rates holds 0.0001 twice"),
        ({"search": {**SEARCH, "learning_rates": [1e-4, 1.00000004e-4]}}, {}, "learning_rates holds 0.0001 twice"),
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


COMPARISON = """\
name: c
run: run.yaml
seeds: [0]
reference: xopd
entries: [{name: xopd, label: X}]
"""


def write_text(write, **values: str) -> Path:
    """A comparison's file by hand, with some of its lines in other words."""
    path: Path = write()
    lines = [line for line in COMPARISON.splitlines() if line.partition(":")[0] not in values]
    path.write_text("\n".join([*lines, *(f"{name}: {value}" for name, value in values.items()), ""]))
    return path


@pytest.mark.parametrize(
    ("written", "steps"), [("0100", 100), ("0o14", 12), ("0x1F", 31), ("1e3", 1000), ("'0100'", 100)]
)
def test_numbers_of_a_set_are_those_of_a_configuration(write, tmp_path, written, steps):
    matrix = plan(write_text(write, set=f"{{run.steps: {written}}}"), tmp_path)
    assert [cell.config.run.steps for cell in matrix.cells] == [steps]
    assert matrix.shared.run.steps == steps


@pytest.mark.parametrize("written", ["1:30", "1_000", "true", ".nan", ".inf", "1.5", "2024-01-01", "'a b'", "[1]"])
def test_what_is_no_number_in_a_set_is_refused(write, tmp_path, written):
    with pytest.raises(UserError, match=r"compare.yaml: .*`run.steps`: .*integer"):
        plan(write_text(write, set=f"{{run.steps: {written}}}"), tmp_path)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        *((text, text) for text in ("0100", "1:30", "yes", "2024-01-01", "1e5", "true", "😀", "é")),
        ('"a: b #c"', "a: b #c"), ('"\\x85\\u2028\\x7f"', "\x85\u2028\x7f"), ("'0100'", "0100"), ("''", ""),
    ],
)  # fmt: skip
def test_text_of_a_set_is_taken_as_it_is_written(write, tmp_path, written, text):
    matrix = plan(write_text(write, set=f"{{data.dev_split: {written}, teacher.endpoints: [{written}]}}"), tmp_path)
    assert matrix.cells[0].config.data.dev_split == text
    assert matrix.cells[0].config.teacher.endpoints == [text]


def test_the_files_own_texts_and_numbers(write):
    entries = "[{name: 0100, label: 1e5, kind: yes, set: {objective.lambda: 0o1}}]"
    file = read_comparison_file(write_text(write, name="0x1F", reference="0100", seeds="[010, 1e0]", entries=entries))
    assert (file.name, file.reference, file.seeds) == ("0x1F", "0100", [10, 1])
    assert (file.entries[0].name, file.entries[0].label, file.entries[0].kind) == ("0100", "1e5", "yes")
    assert file.entries[0].set_ == {"objective.lambda": 1}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"set": "{1: x}"}, ":6: has `1` for a key"),
        ({"set": "{run.steps: 1, run.steps: 2}"}, ":6: `set.run.steps` stands twice"),
        ({"set": "&r {run.steps: *r}"}, ":6: holds a list or mapping that contains itself"),
        ({"true": "x"}, ":6: has `true` for a key"),
        ({"null": "x"}, ":6: has `null` for a key"),
        ({"? [a]\n": "x"}, ":6: has a list or mapping for a key"),
        ({"label": "\x07"}, ":6: holds the control character U+0007"),
        ({"about": "[" * 100_000}, ":6: is nested more than 50 deep"),
        ({"about": "x\n---\na: 1"}, ":7: is not valid YAML"),
        ({"about": "!!binary aGk="}, ":6: holds the tag"),
        ({"jobs": "true"}, ":6: `jobs`: must be an integer"),
        ({"jobs": "1:30"}, ":6: `jobs`: must be an integer"),
        ({"seeds": "[0, true]"}, ":5: `seeds`: must be an integer"),
        ({"seeds": "[0, .nan]"}, ":5: `seeds`: must be an integer"),
        ({"seeds": "[0,\n -1]"}, ":6: `seeds.1`: Input should be greater than or equal to 0"),
        ({"jobs": "1_0"}, ":6: `jobs`: must be an integer"),
        (
            {"search": "{learning_rates: [1e-4, .inf], seed: 1, results: x}"},
            ":6: `search.learning_rates.1`: Input should be a finite",
        ),
        (
            {"search": "{learning_rates: [1e-4, true], seed: 1, results: x}"},
            ":6: `search.learning_rates`: must be a number",
        ),
    ],
)
def test_mistakes_by_hand_name_their_line(write, values, words):
    with pytest.raises(UserError) as caught:
        read_comparison_file(write_text(write, **values))
    assert f"compare.yaml{words}" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("data", [b"", b"- a", b"x", b"5", b"# a"])
def test_files_without_parts(tmp_path, data):
    path = tmp_path / "compare.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"compare.yaml:1: must hold `name`"):
        read_comparison_file(path)


def test_a_file_with_a_mark_and_other_line_ends(write):
    path = write()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_comparison_file(path).name == "c"


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


def test_a_finished_run_whose_configuration_lists_other_methods_options_stays(write, tmp_path):
    matrix = plan(write(), tmp_path / "runs")
    cells = open_folder(matrix, overwrite=False)
    begin(cells[0], cells)
    write_summary(cells[0].cell.folder)
    resolved = cells[0].cell.folder / "config.yaml"
    tree = yaml.safe_load(resolved.read_text())
    tree["objective"] |= {"advantage_clamp": None, "beta": 0.0, "top_k": 64, "teacher_temperature": 0.0}
    resolved.write_text(yaml.safe_dump(tree))
    assert open_folder(matrix, overwrite=False)[0].state == "finished"
    tree["objective"]["lambda"] = 0.25
    resolved.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"objective\.lambda was 0\.25, is 0\.5"):
        open_folder(matrix, overwrite=False)


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
    manifest = json.loads(write_manifest(matrix, command="xopd compare").read_text())
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
    view = ComparisonView(console, "c", cells, jobs=2)
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


def test_all_runs_have_the_same_commit_of_a_checkpoint(write, tmp_path, monkeypatch):
    asked = []

    def _find(setting: str, value: str, weights: bool) -> Found:
        asked.append(value)
        return Found(tmp_path / f"commit-{len(asked)}", HubId("org/name", "c" * 40))

    monkeypatch.setattr("xopd.families.hub.find_checkpoint", _find)
    path = write()
    overrides = ["student.path=org/student", "teacher.path=org/teacher@main"]
    matrix = plan_matrix(read_comparison_file(path), path, overrides).located(Checkpoints())
    configs = [matrix.shared, *(cell.config for cell in matrix.cells)]
    assert len(configs) == 7
    assert asked == ["org/student", "org/teacher@main"]
    assert {config.student.path for config in configs} == {str(tmp_path / "commit-1")}
    assert {config.teacher.path for config in configs} == {str(tmp_path / "commit-2")}
