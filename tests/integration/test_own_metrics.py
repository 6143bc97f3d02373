"""PROMETHEUS_MULTIPROC_DIR in the environment of a service: its metrics stay its own, and right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.world import ROOT, make_world
from tests.integration.teacher_process import TeacherProcess
from tests.integration.test_mistakes import sentence
from tests.random_models import make_tokenizer
from xopd.config.schema import TeacherSettings
from xopd.prompts.vocabulary import vocabulary_of
from xopd.scoring import TeacherClient

SHARED = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


def warnings(log: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if "is left unused" in line["event"]]


@pytest.mark.parametrize(("variable", "there"), [(SHARED[0], False), (SHARED[0], True), (SHARED[1], False)])
async def test_a_teachers_metrics(variable: str, there: bool, checkpoint, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "shared"
    if there:
        folder.mkdir()
    monkeypatch.setenv(variable, str(folder))
    teacher = TeacherProcess(tmp_path / "teacher", checkpoint)
    for _ in range(2):  # a later life counts from 0 again
        teacher.start()
        try:
            async with TeacherClient.from_settings(TeacherSettings(path="-", endpoints=[teacher.grpc])) as client:
                await client.verify(vocabulary_of(make_tokenizer()), context_tokens=64)
                await client.score([1, 2], [[3, 4, 5], [6]], "r")
            assert teacher.metric("xopd_teacher_scored_tokens_total") == 4
            assert teacher.metric("xopd_teacher_ready") == 1
            assert teacher.metric('xopd_teacher_batch_requests_count{kind="score"}') == 1
            assert teacher.metric("process_start_time_seconds") > 0
        finally:
            teacher.stop()
    assert not folder.exists() or list(folder.iterdir()) == []
    first, _ = warnings(teacher.log())
    assert first["event"] == f"{variable} is left unused: a service keeps its metrics in one process"
    assert first["level"] == "warning" and first["folder"] == str(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("own-metrics"))


@pytest.mark.parametrize("service", ["rollout", "trainer"])
def test_the_others_get_to_their_redis(service: str, world: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(SHARED[0], str(tmp_path / "nowhere"))
    assert "redis://127.0.0.1:1: cannot be reached" in sentence(service, world, f"run.directory={tmp_path / 'runs'}")


CODE = """
from xopd.service.lifecycle import run_service

async def main(stop):
    from prometheus_client import generate_latest
    {make}
    print(generate_latest(metrics.registry).decode())

run_service(main)
"""
MAKE = {
    "trainer": "from xopd_trainer.telemetry.metrics import TrainerMetrics; metrics = TrainerMetrics();"
    " metrics.step.set(7)",
    "rollout": "from xopd.telemetry.clock import ActivityClock;"
    " from xopd_rollout.metrics import ACTIVITIES, RolloutMetrics;"
    " metrics = RolloutMetrics(ActivityClock(*ACTIVITIES)); metrics.ready.set(7)",
}
SERIES = {"trainer": "xopd_trainer_step 7.0", "rollout": "xopd_rollout_ready 7.0"}


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("service", MAKE)
def test_the_others_metrics(service: str, there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    if there:
        folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(make=MAKE[service])],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **dict.fromkeys(SHARED, str(folder))},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SERIES[service] in done.stdout.splitlines()
    assert len(warnings(done.stderr)) == 2  # one a variable
    assert not there or list(folder.iterdir()) == []
