"""Every kind of fault on every part, one after another on one running system, as `xopd chaos` does it for a user."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import ROOT, make_world
from xopd.chaos.faults import FAULTS

pytestmark = pytest.mark.timeout(1500)


def chaos(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Run `xopd chaos` on a small world of two pods; its report and its output."""
    config, found = make_world(folder, rollout={"pods": 2}), folder / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "xopd", "chaos", str(config), "--plain", "--json", str(found), *options],
        capture_output=True, text=True, cwd=ROOT, timeout=1400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    report: dict[str, Any] = json.loads(found.read_text())
    return report, done.stdout


def assert_in_order(report: dict[str, Any]) -> None:
    assert report["passed"]
    audit = report["audit"]
    assert audit["closes"]
    assert audit["lost"] == audit["open"] == audit["dead"] == 0
    assert audit["dispatched"] == audit["trained"] > 0


def test_each_fault_costs_nothing(tmp_path, capsys):
    report, output = chaos(tmp_path, "--each")
    with capsys.disabled():
        print("\n" + output[output.index("fault ") :])
    assert [one["fault"] for one in report["happened"]] == [fault.name for fault in FAULTS]
    assert_in_order(report)
    assert report["audit"]["lives"] == 3  # begun, killed, and once more to its end
    assert report["audit"]["undone"] > 0


def test_faults_at_random_cost_nothing(tmp_path):
    report, _ = chaos(tmp_path, "--seed", "1", "--minutes", "1", "--every", "8")
    assert len(report["happened"]) >= 5
    assert_in_order(report)
