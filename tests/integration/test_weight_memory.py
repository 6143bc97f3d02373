"""No second copy of a model on a version's way: what sender and receiver hold beyond the model's own, measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(600)


def test_a_version_is_sent_and_received_one_tensor_at_a_time() -> None:
    """At most twice the largest tensor and 64 MB; the model is larger than that, so that a copy of it would be seen."""
    command = [sys.executable, "-m", "bench.weights", "--json", "--layers", "3", "--vocabulary", "8192"]
    done = subprocess.run(
        [*command, "--forms", "send", "receive"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout)
    assert found["aim_mb"] == 2 * found["largest_mb"] + 64
    assert found["whole_mb"] > 1.5 * found["aim_mb"]
    for form in ("send", "receive"):
        for version in found["forms"][form]:
            assert version["mb"] <= found["aim_mb"], (form, found)
