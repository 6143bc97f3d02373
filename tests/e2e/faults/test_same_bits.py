"""Killed again and again, a deterministic run ends with the weights of one that nothing disturbed, bit for bit."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.world import Run, make_world
from xopd.ledger.audit import audit_run
from xopd.service.folders import scratch_path

pytestmark = pytest.mark.timeout(600)
STEPS = 7


def finished(folder: Path, start, disturb=None) -> Run:
    config = make_world(
        folder,
        run={"steps": STEPS, "checkpoint_every": 3, "deterministic": True},
        evals={"every": 0},
        objective={"samples": 2},
        rollout={"pods": 2},
    )
    run = start(config)
    if disturb is not None:
        disturb(run)
    assert run.wait(420) == 0, run.text()
    audit = audit_run(run.folder)
    assert audit.closes, audit.findings
    assert (audit.lost, audit.dead, audit.steps) == (0, 0, STEPS)
    assert audit.dispatched == audit.trained == STEPS * 4 * 2
    return run


def weights(run: Run) -> str:
    return hashlib.sha256((run.folder / f"checkpoints/step-{STEPS:08d}/model.safetensors").read_bytes()).hexdigest()


def scratch(run: Run) -> Path:
    return Path(os.environ["TMPDIR"]) / scratch_path(run.folder).name


def disturb(run: Run) -> None:
    """Before the first checkpoint, after it, and a pod in between."""
    run.wait_for_step(2)
    os.kill(run.pid_of("trainer"), signal.SIGKILL)
    run.wait_for_step(4)
    assert any(path.is_socket() for path in scratch(run).iterdir())  # vLLM's, which a killed engine leaves behind
    os.kill(run.pid_of("rollout-0"), signal.SIGKILL)
    os.kill(run.pid_of("teacher-0"), signal.SIGKILL)
    run.wait_for_step(5)
    os.kill(run.pid_of("trainer"), signal.SIGKILL)


def test_killed_or_not_the_weights_are_the_same(tmp_path, start):
    quiet = finished(tmp_path / "quiet", start)
    killed = finished(tmp_path / "killed", start, disturb)
    assert audit_run(quiet.folder).lives == 1
    assert audit_run(killed.folder).lives == 3
    assert audit_run(killed.folder).undone > 0
    assert not scratch(killed).exists()
    assert killed.summary()["policy_lag"]["max"] == 0
    assert [step["step"] for step in killed.steps()] == list(range(1, STEPS + 1))
    assert weights(killed) == weights(quiet)
    assert [r["loss"] for r in killed.steps()] == [r["loss"] for r in quiet.steps()]
