"""The committed Grafana dashboards: current, sound as JSON, and about series that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.metrics_page import exported_names

ROOT = Path(__file__).resolve().parents[3]
GRAFANA = ROOT / "deploy" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
RECORDING = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules" / "recording.yml").read_text())
KNOWN = exported_names() | {rule["record"] for group in RECORDING["groups"] for rule in group["rules"]}
each_dashboard = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def panels(path: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def test_the_files_are_current() -> None:
    command = [sys.executable, str(ROOT / "tools" / "dashboards.py"), "--check"]
    check = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert check.returncode == 0, check.stderr
    assert [path.stem for path in FILES] == ["fleet", "throughput", "training"]


@each_dashboard
def test_expressions_name_series_that_exist(path: Path) -> None:
    for panel in panels(path):
        for target in panel["targets"]:
            named = set(re.findall(r"(?:xopd|process)[:_][a-z0-9_:]+", target["expr"]))
            assert named <= KNOWN, panel["title"]
            assert named or re.search(r"\b(up|ALERTS)\{", target["expr"]), panel["title"]


@each_dashboard
def test_panels_do_not_overlap_and_have_names_of_their_own(path: Path) -> None:
    every = json.loads(path.read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in every:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for key in ("id", "title"):
        values = [panel[key] for panel in every if key == "id" or panel["type"] != "row"]
        assert len(values) == len(set(values))


@each_dashboard
def test_panels_use_the_provisioned_data_source(path: Path) -> None:
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    expected = {"type": source["type"], "uid": source["uid"]}
    for panel in panels(path):
        assert panel["datasource"] == expected
        assert all(target["datasource"] == expected for target in panel["targets"])


def test_every_trainer_series_is_on_a_dashboard_or_named_here() -> None:
    """A new signal that nobody can see is soon forgotten."""
    shown = " ".join(target["expr"] for path in FILES for panel in panels(path) for target in panel["targets"])
    shown += " ".join(rule["expr"] for group in RECORDING["groups"] for rule in group["rules"])
    left_out = {"xopd_trainer_advantage_nats"}  # its mean, spread and quantiles are
    stems = {re.sub("_(bucket|sum|count)$", "", name) for name in exported_names() if name.startswith("xopd_trainer_")}
    assert {stem for stem in stems if stem not in shown} == left_out
