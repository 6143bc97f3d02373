"""The shipped Prometheus configuration: valid, its alerts explained in the runbook and each shown to fire."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.metrics_page import exported_names

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "prometheus"
RULE_FILES = sorted((FOLDER / "rules").glob("*.yml"))
RULE_TESTS = sorted((FOLDER / "tests").glob("*.yml"))
RUNBOOK = (ROOT / "docs" / "RUNBOOK.md").read_text()
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


def rules() -> list[dict[str, Any]]:
    groups = [group for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = [rule for rule in rules() if "alert" in rule]
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def test_alerts_and_runbook_agree() -> None:
    entries = re.findall(r"^### (Xopd\w+)$", RUNBOOK, re.MULTILINE)
    assert sorted(entries) == sorted(alert["alert"] for alert in ALERTS)
    assert len(entries) == len(set(entries))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_leads_to_its_entry(alert: dict[str, Any]) -> None:
    name, severity = alert["alert"], alert["labels"]["severity"]
    assert alert["annotations"]["runbook"] == f"docs/RUNBOOK.md#{name.lower()}"
    assert alert["annotations"]["summary"]
    assert severity in ("page", "warn")
    assert re.search(rf"^### {name}\n\*{severity}\.\* ", RUNBOOK, re.MULTILINE), f"{name} is not *{severity}* there"


def test_every_alert_is_shown_to_fire() -> None:
    cases = [case for path in RULE_TESTS for test in yaml.safe_load(path.read_text())["tests"]
             for case in test.get("alert_rule_test", [])]  # fmt: skip
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {alert["alert"] for alert in ALERTS}


def test_rules_name_metrics_that_exist() -> None:
    known = exported_names() | RECORDED
    for rule in rules():
        named = set(re.findall(r"xopd[:_][a-z0-9_:]+", rule["expr"]))
        assert named <= known, rule
    for name in re.findall(r"`(xopd_\w+)", RUNBOOK):
        assert name in known or f"{name}_bucket" in known, name


def test_settings_in_the_runbook_exist() -> None:
    reference = (ROOT / "docs" / "CONFIG.md").read_text()
    sections = re.findall(r"^## `(\w+)`$", reference, re.MULTILINE)
    for section, name in re.findall(rf"`({'|'.join(sections)})\.(\w+)", RUNBOOK):
        if name != "yml":
            assert f"`XOPD_{section}__{name}`".upper() in reference.upper(), f"{section}.{name}"


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", *(str(path) for path in RULE_FILES)),
        ("test", "rules", *(str(path) for path in RULE_TESTS)),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
