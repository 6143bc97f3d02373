"""The command line as a user calls it: help, exit statuses, one-sentence failures, checks, and what views show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.random_models import make_teacher
from tests.unit.synthetic_run import step_record, write_run
from xopd import __version__
from xopd.checks.run import Checks
from xopd.config import load_config
from xopd.errors import UserError
from xopd.local.live import render
from xopd.local.plain import PlainView
from xopd.local.rundir import folder_of, locked, prepare
from xopd.local.supervisor import Managed, ProcessSpec
from xopd.local.view import Scene
from xopd.report.style import duration, sparkline
from xopd.status.model import RunStatus

ROOT = Path(__file__).resolve().parents[2]


def xopd(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("XOPD_")}
    return subprocess.run(
        [sys.executable, "-m", "xopd", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**clean, "COLUMNS": "100", **env},
        timeout=50,
        check=False,
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.e2e.world import make_world

    return make_world(tmp_path_factory.mktemp("world"))


def assert_one_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    [sentence] = [line for line in done.stderr.splitlines() if line.startswith("xopd: ")]
    for part in parts:
        assert part in sentence


def test_the_version_is_one_line():
    done = xopd("--version")
    assert done.returncode == 0
    assert re.fullmatch(rf"xopd {re.escape(__version__)}, Python 3\.\d+\.\d+\n", done.stdout)


def test_help_names_every_command_and_imports_nothing_heavy():
    done = xopd("--help")
    assert done.returncode == 0
    for command in ("up", "check", "report", "status", "scale", "data", "config"):
        assert command in done.stdout
    heavy = ("torch", "transformers", "matplotlib", "huggingface_hub")
    code = f"import sys, xopd.cli.main, xopd.families.hub; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [("up", "--steps", "3"), ("teach",), ("up",), ("status",), ("data", "stats")])
def test_wrong_usage_is_status_2(arguments):
    done = xopd(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_missing_configuration_is_one_sentence():
    assert_one_sentence(xopd("up", "/nowhere.yaml"), "/nowhere.yaml", "no such configuration file")


def test_check_finds_everything_well(world):
    done = xopd("check", str(world))
    assert done.returncode == 0, done.stderr
    for needed in ("24 items", "24 of 24 clips", "qwen2_audio", "student and teacher agree", "All is well"):
        assert needed in done.stdout


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.manifest=/nowhere.jsonl", ["/nowhere.jsonl", "no such manifest"]),
        ("data.train_split=trian", ["data.train_split 'trian'", "dev, test, train"]),
        ("data.max_audio_seconds=0.6", ["item item-", "data.max_audio_seconds is 0.6"]),
        ("student.path=/nowhere", ["student.path /nowhere", "there is no such folder"]),
        ("teacher.path=/nowhere", ["teacher.path /nowhere", "there is no such folder"]),
        ("evals.grader=judge", ["evals.grader 'judge'", "exact_match, final_answer"]),
        ("evals.bounds=/nowhere.json", ["evals.bounds /nowhere.json", "cannot be read"]),
        ("redis.url=redis://127.0.0.1:1", ["redis://127.0.0.1:1", "cannot be reached"]),
        ("teacher.endpoints=[127.0.0.1:1]", ["teacher.endpoints 127.0.0.1:1", "does not answer"]),
    ],
)
def test_a_check_is_one_mistake_and_does_not_stop_the_others(world, override, parts):
    findings = Checks(load_config(world, [override, "redis.connect_timeout_s=1"])).run()
    [failed] = [finding for finding in findings if finding.outcome == "failed"]
    assert failed.error is not None
    for part in parts:
        assert part in str(failed.error)
    assert [finding.name for finding in findings][-1] == "teacher endpoints"


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("data.manifest=/nowhere.jsonl", "no such manifest"),
        ("teacher.path=/nowhere", "teacher.path /nowhere"),
        ("redis.url=redis://127.0.0.1:1", "cannot be reached"),
    ],
)
def test_up_tells_a_mistake_before_it_starts_anything(world, tmp_path, override, part):
    sets = [f"run.directory={tmp_path}", "redis.connect_timeout_s=1", override]
    assert_one_sentence(xopd("up", str(world), *(word for each in sets for word in ("--set", each))), part)
    assert list(tmp_path.iterdir()) == []


def test_check_ends_with_the_first_mistake(world):
    done = xopd("check", str(world), "--set", "student.path=/nowhere")
    assert_one_sentence(done, "student.path /nowhere")
    assert done.stdout.count("✕") == 1


def test_check_names_the_difference_of_vocabularies(world, tmp_path):
    other = make_teacher(tmp_path / "other", extra_special="<|tool|>")
    assert "special token '<|tool|>' is absent for the student" in first_mistake(world, f"teacher.path={other}")


def test_check_reads_the_clips(world, tmp_path):
    items = [json.loads(line) for line in (world.parent / "items.jsonl").read_text().splitlines()]
    items[0]["audio"]["sha256"] = "0" * 64
    for item in items:
        item["audio"]["uri"] = str(world.parent / item["audio"]["uri"])
    manifest = tmp_path / "items.jsonl"
    manifest.write_text("".join(json.dumps(item) + "\n" for item in items))
    sentence = first_mistake(world, f"data.manifest={manifest}", f"data.audio_roots=[{world.parent}]")
    assert "item item-00" in sentence
    assert "SHA-256" in sentence


def first_mistake(config: Path, *overrides: str) -> str:
    findings = Checks(load_config(config, overrides)).run()
    return next(str(finding.error) for finding in findings if finding.error is not None)


def test_data_stats(world):
    done = xopd("data", "stats", str(world.parent / "items.jsonl"))
    assert done.returncode == 0
    assert "retention" in done.stdout
    assert "24" in done.stdout.splitlines()[-1]


def test_config_reference_is_the_committed_page():
    assert xopd("config", "reference").stdout == (ROOT / "docs" / "CONFIG.md").read_text()


def test_report_prints_the_table(tmp_path):
    folder = write_run(tmp_path / "tiny", steps=3)
    done = xopd("report", str(folder), "--markdown")
    assert done.returncode == 0, done.stderr
    assert "| final student | 78.2 [74.2, 82.2] |" in done.stdout
    assert_one_sentence(xopd("report", str(tmp_path)), "neither metrics.jsonl nor summary.json")


def test_status_without_a_run(world, tmp_path):
    assert_one_sentence(xopd("status", "--config", str(world)), "redis.url is empty")
    assert_one_sentence(xopd("status", str(tmp_path)), "no such configuration file")


def test_a_run_folder_is_never_overwritten_by_chance(world):
    config = load_config(world)
    folder = prepare(config, "c.yaml", resume=False, overwrite=False)
    prepare(config, "c.yaml", resume=False, overwrite=False)  # nothing was done yet: nothing to lose
    with pytest.raises(UserError, match=r"no run to resume; start it with `xopd up c\.yaml`"):
        prepare(config, "c.yaml", resume=True, overwrite=False)
    folder.metrics.write_text("{}\n")
    with pytest.raises(UserError, match="unfinished run; give --resume to continue it"):
        prepare(config, "c.yaml", resume=False, overwrite=False)
    prepare(config, "c.yaml", resume=True, overwrite=False)
    folder.summary.write_text("{}")
    with pytest.raises(UserError, match=r"finished run; give --set run\.name=NAME for a new one, or --overwrite"):
        prepare(config, "c.yaml", resume=False, overwrite=False)
    with pytest.raises(UserError, match="is finished, there is nothing to resume"):
        prepare(config, "c.yaml", resume=True, overwrite=False)
    with pytest.raises(UserError, match="give one of them"):
        prepare(config, "c.yaml", resume=True, overwrite=True)
    prepare(config, "c.yaml", resume=False, overwrite=True)
    assert not folder.metrics.exists()
    assert load_config(folder.config) == config


def test_a_run_folder_has_one_owner(world):
    folder = folder_of(load_config(world))
    with locked(folder), pytest.raises(UserError, match="another `xopd up`"), locked(folder):
        pass
    with locked(folder):
        pass


def trainer_status(phase: str = "training", **more: object) -> RunStatus:
    import numpy as np

    rng = np.random.default_rng(0)
    scores = {part: {"accuracy": 0.5, "n": 200, "ci95": [0.43, 0.57]} for part in ("speech", "text", "retention")}
    return RunStatus.model_validate(
        {
            "phase": phase,
            "run": "tiny",
            "step": 120,
            "steps": 300,
            "eta_s": 131.0,
            "latest": step_record(rng, 120, 300),
            "history": {"step": [1, 2, 3], "kl_text": [0.3, 0.2, 0.1], "kl_speech": [1.2, 1.0, 0.7]},
            "evals": [
                {"step": 0, "split": "test", "scores": scores},
                {"step": 100, "split": "dev", "scores": scores},
            ],
            "teacher_text": {"accuracy": 0.97, "n": 400, "ci95": [0.95, 0.98]},
            "pods": [
                {"pod_id": "rollout-0", "policy_version": 119, "in_flight": 8, "engine_version": "0.32.0"},
                {"pod_id": "elsewhere-7", "policy_version": 119, "in_flight": 4, "engine_version": "0.32.0"},
            ],
            "accounts": {"dispatched": 15_360, "trained": 15_232, "duplicates_dropped": 1},
            **more,
        }
    )


def scene(tmp_path: Path) -> Scene:
    shown = Scene("tiny", 300)
    for name, role, state in (("teacher-0", "teacher", "ready"), ("rollout-0", "rollout", "waiting")):
        shown.processes[name] = Managed(ProcessSpec(name, role, (), tmp_path / "log"), state=state, restarts=1)
    shown.events.append((12.0, "rollout-0 ended with signal 9; starting it again in 1 s"))
    return shown


@pytest.mark.parametrize("width", [80, 110])
def test_the_live_view_shows_the_run(tmp_path, width):
    shown = scene(tmp_path)
    shown.status = trainer_status()
    console = Console(width=width, record=True, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(render(shown, width))
    text = console.export_text()
    for needed in ("step 120/300", "2 min 11 s left", "97.0 %", "KL to teacher", "restarting", "v119", "elsewhere-7"):
        assert needed in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())


def test_the_live_view_before_the_trainer_answers(tmp_path):
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render(scene(tmp_path), 100))
    assert "starting services" in console.export_text()


def test_plain_lines_say_each_thing_once(tmp_path):
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    view = PlainView(console, scene(tmp_path))
    for _ in range(3):
        view.scene.status = trainer_status()
        view.refresh()
    lines = console.export_text().splitlines()
    assert sum("text-only teacher" in line for line in lines) == 1
    assert sum("dev at step 100: speech 50.0 %" in line for line in lines) == 1
    assert sum(line.endswith("training") for line in lines) == 1


def test_figures_for_people():
    assert [duration(s) for s in (None, 4.21, 42.4, 185, 7620)] == ["–", "4.2 s", "42 s", "3 min 05 s", "2 h 07 min"]
    assert sparkline([1.0, 2.0, None, 3.0]) == "▁▅█"
    assert sparkline([1.0]) == ""
