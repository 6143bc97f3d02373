"""`make demo` as README has it: the gap closes, and the accounts too. A short form takes a fifth of its steps."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xopd.families import open_family

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(1500)
SHORT = {"XOPD_RUN__STEPS": "30"}


@pytest.fixture(scope="module", params=["short", pytest.param("whole", marks=pytest.mark.long)])
def length(request: pytest.FixtureRequest) -> str:
    named: str = request.param
    return named


@pytest.fixture(scope="module")
def run(length: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        ["make", "demo"],
        cwd=ROOT,
        env={**os.environ, "XOPD_RUN__DIRECTORY": str(runs), **(SHORT if length == "short" else {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1400,
        check=False,
    )
    print(done.stdout[-6000:])
    assert done.returncode == 0
    return runs / "demo"


@pytest.fixture(scope="module")
def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def test_engines_are_real(summary):
    assert summary["engine"]["rollout"].startswith("vllm 0.")
    assert summary["engine"]["teacher"].startswith("transformers 5.")


def test_the_gap_closes(summary, length):
    assert summary["base"]["speech"]["n"] >= 400
    assert summary["paired"]["speech"]["ci95"][0] > (0.0 if length == "short" else 0.05)
    assert summary["gap_closed"] >= (0.05 if length == "short" else 0.5)
    # Text not below the base's, retention within 3 points of it: as far as the items can tell, over the same items.
    assert summary["paired"]["text"]["ci95"][1] >= 0
    assert summary["paired"]["retention"]["ci95"][1] >= -0.03
    assert summary["bounds"]["information_ceiling"]["accuracy"] > 0.95
    assert summary["drop"]["final"]["speech"] < summary["drop"]["base"]["speech"]


def test_the_accounts_close(summary):
    counts = summary["trajectories"]
    assert counts["dispatched"] == counts["trained"] > 0
    assert counts["lost"] == counts["given_up"] == counts["duplicates_dropped"] == 0
    assert summary["policy_lag"]["max"] == 0


def test_only_the_language_model_changed(run):
    base = ROOT / "examples/tiny/checkpoints/student"
    family = open_family(str(base))
    before, after = load_file(base / "model.safetensors"), load_file(run / "export/model.safetensors")
    for name, tensor in before.items():
        if family.is_frozen(name):
            assert torch.equal(tensor, after[name]), name


def test_the_report_is_there(run):
    text = (run / "report.html").read_text()
    assert "<svg" in text or "data:image" in text
    # Opens offline: namespaces apart, nothing names an address that a browser would fetch.
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|url\(\s*["']?(https?:)?//|@import""", text)
