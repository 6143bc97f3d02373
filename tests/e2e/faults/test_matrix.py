"""Every kind of fault on every part, one after another on one running system, as `xopd chaos` does it for a user.

A short form has some of them: parts that die, join, leave, stand still and are cut off, and data that are gone.
"""

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
FEW = (
    "rollout: killed",
    "rollout: one more pod joins",
    "rollout: a pod leaves (SIGTERM)",
    "teacher: frozen for longer than a lease",
    "trainer: killed between checkpoints",
    "redis: comes back empty",
    "redis: connections reset",
)
ONLY_FEW = f"import xopd.chaos.faults as f; f.FAULTS = tuple(one for one in f.FAULTS if one.name in {FEW}); "


def chaos(folder: Path, *options: str, before: str = "") -> tuple[dict[str, Any], str]:
    """Run `xopd chaos` on a small world of two pods, after the statements `before`; its report and its output."""
    config, found = make_world(folder, rollout={"pods": 2}), folder / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"{before}from xopd.cli.main import main; main()"),
            *("chaos", str(config), "--plain", "--json", str(found), *options),
        ],
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


@pytest.mark.parametrize(
    ("names", "before"),
    [
        pytest.param(FEW, ONLY_FEW, id="few"),
        pytest.param([fault.name for fault in FAULTS], "", id="all", marks=pytest.mark.long),
    ],
)
def test_each_fault_costs_nothing(names, before, tmp_path, capsys):
    report, output = chaos(tmp_path, "--each", before=before)
    with capsys.disabled():
        print("\n" + output[output.index("fault ") :])
    assert [one["fault"] for one in report["happened"]] == list(names)
    assert_in_order(report)
    assert report["audit"]["lives"] == 3  # begun, killed, and once more to its end
    assert report["audit"]["undone"] > 0


@pytest.mark.long
def test_faults_at_random_cost_nothing(tmp_path):
    report, _ = chaos(tmp_path, "--seed", "1", "--minutes", "1", "--every", "8")
    assert len(report["happened"]) >= 5
    assert_in_order(report)
