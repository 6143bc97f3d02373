"""Pods join and leave a run under way: `xopd scale` on a real system, seen through `xopd status`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.world import ROOT, Run, make_world
from xopd.local.embedded_redis import redis_of_run

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]
STEPS = 150
PATIENCE_S = 240.0


def xopd(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "xopd", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    config = make_world(tmp_path, run={"steps": STEPS, "checkpoint_every": 10}, evals={"every": 0})
    run = Run(config)
    yield run
    run.stop()


def fleet(run: Run) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(xopd("status", str(run.folder), "--json"))
    return read


def until(run: Run, wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not wanted():
        assert run.process.poll() is None, f"the run ended early:\n{run.text()[-4000:]}"
        assert time.monotonic() < deadline, f"it did not come to it:\n{run.text()[-4000:]}"
        time.sleep(0.2)


def trainer(run: Run, path: str) -> None:
    address = json.loads((run.folder / "processes" / "trainer.json").read_text())["http"]
    with urllib.request.urlopen(urllib.request.Request(f"http://{address}{path}", method="POST"), timeout=20):
        pass


def test_pods_join_and_leave_a_run_under_way(run: Run) -> None:
    run.wait_for_step(3)
    until(run, lambda: fleet(run)["trainer"]["step"] >= 3)
    before = fleet(run)
    assert [pod["pod_id"] for pod in before["pods"]] == ["rollout-0"]
    assert [teacher["ok"] for teacher in before["teachers"]] == [True]
    assert before["trainer"]["phase"] == "training"

    asked = xopd("scale", str(run.folder), "rollout=3", "teacher=2")
    assert "3 rollout, 2 teacher" in asked
    # Two cores may take longer to load three models than to train all steps: the run waits for them, in its middle.
    trainer(run, "/pause")
    until(run, lambda: all(f"{name} is ready" in run.text() for name in ("rollout-1", "rollout-2", "teacher-1")))
    until(run, lambda: [teacher["ok"] for teacher in fleet(run)["teachers"]] == [True, True])
    assert fleet(run)["trainer"]["phase"] == "paused"
    trainer(run, "/resume")

    newcomers: dict[str, int] = {}

    def _all_worked() -> bool:
        read = fleet(run)
        newcomers.update({pod["pod_id"]: pod["generated_tokens"] for pod in read["pods"]})
        scored = [teacher["scored_tokens"] for teacher in read["teachers"]]
        return len(newcomers) == 3 and min(newcomers.values()) > 0 and len(scored) == 2 and min(scored) > 0

    until(run, _all_worked)
    xopd("scale", str(run.folder), "rollout=1", "teacher=1")
    gone = ("rollout-1", "rollout-2", "teacher-1")
    until(run, lambda: all(f"{name} has left, in order" in run.text() for name in gone))
    left_at = len(run.steps())
    with redis.Redis.from_url(redis_of_run(run.folder)) as client:
        consumers = {row["name"].decode(): row["pending"] for row in client.xinfo_consumers("xopd:prompts", "rollout")}
    # What they had claimed is answered, or given back and taken over by the one that stays.
    assert set(consumers) >= {"rollout-0", "rollout-1", "rollout-2"}
    until(run, lambda: len(run.steps()) > left_at)
    after = fleet(run)
    assert [pod["pod_id"] for pod in after["pods"]] == ["rollout-0"]
    assert len(after["teachers"]) == 1

    assert run.wait(420) == 0, run.text()
    counts = run.summary()["trajectories"]
    assert counts["dispatched"] == counts["trained"] == STEPS * 4 * 2 * 4
    assert counts["lost"] == counts["given_up"] == 0
    assert [record["step"] for record in run.steps()] == list(range(1, STEPS + 1))
    assert run.summary()["policy_lag"]["max"] == 0
