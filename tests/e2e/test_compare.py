"""`xopd compare` with every method through the real services: as a user starts it, stops it, and goes on."""

from __future__ import annotations

import csv
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.world import ROOT, make_world

pytestmark = pytest.mark.timeout(900)
ENTRIES: dict[str, dict[str, Any]] = {
    "sft": {"objective.method": "sft"},
    "sft-foreign": {"objective.method": "sft", "objective.target": "foreign"},
    "offline-kd": {"objective.method": "offline_kd", "objective.teacher_temperature": 1.0},
    "gkd-mix": {"objective.method": "gkd", "objective.beta": 0.5, "objective.on_policy_share": 0.5},
    "xopd": {"objective.advantage_clamp": 5.0, "objective.ratio_truncation": [0.2, 5.0]},
    "xopd-full": {"objective.kl_estimator": "full", "objective.aggregation": "token_mean"},
    "text-only": {"objective.lambda": 0.0, "objective.kl_estimator": "top_k", "objective.top_k": 32},
}
SUPERVISED = ("sft", "sft-foreign", "offline-kd")
STEPS = 3
COMPARISONS = {"short": ("offline-kd", "xopd", "text-only"), "all": tuple(ENTRIES)}
"""The short one has one entry of each kind: on stored responses, on the policy's own, an ablation."""


def marks(which: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.long] if which == "all" else []


COMPARED = [pytest.param(which, marks=marks(which)) for which in COMPARISONS]
CELLS = [pytest.param(which, entry, marks=marks(which)) for which, entries in COMPARISONS.items() for entry in entries]


def write_comparison(folder: Path, entries: dict[str, dict[str, Any]], **changes: Any) -> Path:
    make_world(folder, evals={"every": 2, "probe_items": 2}, run={"steps": STEPS}, teacher={"max_top_k": 300})
    tree = {
        "name": "all",
        "directory": str(folder / "compared"),
        "run": "config.yaml",
        "seeds": [0],
        "jobs": 2,
        "reference": "xopd",
        "entries": [
            {"name": name, "label": name, "group": "ablation" if name == "text-only" else "methods", "set": settings}
            for name, settings in entries.items()
        ],
        **changes,
    }
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def start(path: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "xopd", "compare", str(path), "--plain", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def run(path: Path, *options: str) -> tuple[int, str]:
    process = start(path, *options)
    try:
        text, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise AssertionError(f"the comparison hangs:\n{process.communicate()[0][-4000:]}") from None
    return process.returncode, text


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a finished comparison, by its name in COMPARISONS."""

    @functools.cache
    def _compared(which: str) -> Path:
        folder = tmp_path_factory.mktemp("compare")
        status, text = run(write_comparison(folder, {entry: ENTRIES[entry] for entry in COMPARISONS[which]}))
        print(text[-6000:])
        assert status == 0, text[-4000:]
        return folder / "compared" / "all"

    return _compared


def cell(compared: Path, entry: str) -> Path:
    return compared / "cells" / entry / "seed-0"


def entries_of(compared: Path) -> list[str]:
    return sorted(path.name for path in (compared / "cells").iterdir())


@pytest.mark.parametrize(("which", "entry"), CELLS)
def test_every_method_trains_and_its_accounts_close(compared, which, entry):
    folder = cell(compared(which), entry)
    summary = json.loads((folder / "summary.json").read_text())
    steps = records(folder, "step")
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert not any(step["skipped"] for step in steps)
    if entry == "text-only":
        # On text the student of this world is its teacher: there is nothing to learn but rounding.
        assert steps[0]["text"]["kl"] == pytest.approx(0.0, abs=1e-5)
        assert steps[0]["grad_norm"] == pytest.approx(0.0, abs=1e-4)
    else:
        assert all(step["grad_norm"] > 0 for step in steps)
    counts = summary["trajectories"]
    assert counts["dispatched"] == counts["trained"]
    assert counts["lost"] == counts["given_up"] == 0
    # Supervised methods sample nothing to train on; the others sample 4 responses to 4 items, in each modality.
    whole = STEPS * 4 * 4 * (1 if entry == "text-only" else 2)
    assert counts["dispatched"] == 0 if entry in SUPERVISED else 0 < counts["dispatched"] <= whole
    if entry.startswith("xopd"):
        assert counts["dispatched"] == whole


@pytest.mark.parametrize(("which", "entry"), CELLS)
def test_every_method_has_the_same_probes(compared, which, entry):
    probes = records(cell(compared(which), entry), "probe")
    assert [probe["step"] for probe in probes] == [0, 2, 3]
    for probe in probes:
        for modality in ("text", "speech"):
            about = probe[modality]
            assert about["tokens"] > 0
            assert 0.0 <= about["top_k_overlap"] <= 1.0
            assert 0.0 < about["teacher_mass"] < 1.0
            assert about["ratio"]["mean"] == pytest.approx(1.0, abs=1e-3)
        assert probe["speech"]["modality_gap"] > 0
        assert probe["text"]["modality_gap"] is None


@pytest.mark.parametrize("which", COMPARED)
def test_supervised_steps_have_a_likelihood_and_no_advantage(compared, which):
    folder = compared(which)
    supervised = [entry for entry in entries_of(folder) if entry in SUPERVISED]
    assert supervised
    for entry in supervised:
        step = records(cell(folder, entry), "step")[0]
        for modality in ("text", "speech"):
            assert step[modality]["nll"] > 0
            assert step[modality]["advantage"] is None


@pytest.mark.parametrize("which", COMPARED)
def test_the_teachers_responses_are_kept(compared, which):
    folder = compared(which)
    lines = (cell(folder, "offline-kd") / "teacher_responses.jsonl").read_text().splitlines()
    stored = [json.loads(line) for line in lines]
    assert len({record["id"] for record in stored}) == len(stored) == 12
    assert all(record["token_ids"] for record in stored)


@pytest.mark.parametrize("which", COMPARED)
def test_tables_and_report_are_written(compared, which):
    folder = compared(which)
    for number in (1, 2, 3):
        for suffix in ("md", "tex", "csv"):
            assert (folder / f"table{number}.{suffix}").stat().st_size > 100
    with (folder / "table1.csv").open() as file:
        rows = list(csv.reader(file))
    shown = " ".join(row[0] for row in rows)
    assert all(name in shown for name in entries_of(folder) if name != "text-only")
    assert "<svg" in (folder / "report.html").read_text()


@pytest.mark.parametrize("which", COMPARED)
def test_finished_runs_are_not_run_again(compared, which):
    folder = compared(which)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/seed-0/summary.json")}
    status, text = run(folder.parents[1] / "compare.yaml")
    assert status == 0 and before
    assert "begins" not in text
    assert {path: path.stat().st_mtime_ns for path in before} == before


def wait_for_steps(process: subprocess.Popen[str], folder: Path, steps: int) -> None:
    deadline = time.monotonic() + 240
    while not (folder / "metrics.jsonl").exists() or len(records(folder, "step")) < steps:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.long
def test_a_stopped_comparison_goes_on_and_a_killed_trainer_too(tmp_path):
    path = write_comparison(tmp_path, {"xopd": {}}, seeds=[0, 1], jobs=1, set={"run.steps": 10, "evals.every": 0})
    folder, second = (tmp_path / "compared" / "all" / "cells" / "xopd" / f"seed-{seed}" for seed in (0, 1))
    pid_file = tmp_path / "compared/all/processes/pids.json"
    process = start(path)
    wait_for_steps(process, folder, 3)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert f"xopd compare {path}" in text
    pids = json.loads(pid_file.read_text())
    for name, pid in pids.items():
        if name != "supervisor":
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    done = len(records(folder, "step"))
    process = start(path)
    wait_for_steps(process, second, 3)
    os.kill(json.loads(pid_file.read_text())["trainer-0"], signal.SIGKILL)
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text
    assert "xopd seed 0: goes on" in text
    assert "trainer-0 started again" in text
    for of_run in (folder, second):
        assert [step["step"] for step in records(of_run, "step")] == list(range(1, 11))
        counts = json.loads((of_run / "summary.json").read_text())["trajectories"]
        assert counts["dispatched"] == counts["trained"] == 10 * 2 * 4 * 4
    assert any(event["step"] == done for event in records(folder, "event"))


@pytest.mark.long
def test_a_run_that_fails_is_named_and_the_others_are_kept(tmp_path):
    entries = {"xopd": {}, "sft": {"objective.method": "sft", "objective.target": "nobody's"}}
    path = write_comparison(tmp_path, entries, jobs=1, set={"run.steps": 1, "evals.every": 0})
    status, text = run(path)
    assert status == 2, text
    assert "sft seed 0 failed" in text
    assert "has no such response" in text
    assert "Traceback" not in text
    assert (tmp_path / "compared/all/cells/xopd/seed-0/summary.json").exists()
