"""`make demo`, as a newcomer types it, shortened through XOPD_ variables."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("make") is None, reason="needs make"),
]


def test_make_demo_ends_with_a_report(tmp_path: Path) -> None:
    shorter = {
        "XOPD_RUN__DIRECTORY": str(tmp_path),
        "XOPD_RUN__STEPS": "2",
        "XOPD_RUN__CHECKPOINT_EVERY": "1",
        "XOPD_EVALS__EVERY": "0",
        "XOPD_TRAINER__BATCH_PROMPTS": "4",
        "XOPD_DATA__EVAL_SPLIT": "dev",
    }
    done = subprocess.run(
        ["make", "demo"], cwd=ROOT, env={**os.environ, **shorter}, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["trajectories"]["trained"] == summary["trajectories"]["dispatched"] == 2 * 4 * 2 * 4
    assert 0.0 < summary["base"]["speech"]["accuracy"] < summary["teacher"]["text"]["accuracy"]
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
