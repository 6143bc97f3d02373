"""Every command in README.md and CONTRIBUTING.md exists, and every one in README.md is run by some test."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
# What runs a command of the README: the file, and words that it must hold.
RUN_BY = {
    "make demo": ("tests/e2e/test_demo.py", '"make", "demo"'),
    "make test": (".ci/run", "make test-all"),
    ".venv/bin/xopd up": ("tests/e2e/world.py", '"xopd", "up"'),
}


def shell_commands(text: str) -> list[str]:
    """The lines of the ```sh blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def subcommand(command: str) -> list[str]:
    """The words of an xopd command before its first argument or option."""
    words = command.split()[1:]
    return [word for word in words[: 2 if words[0] in ("data", "config") else 1] if re.fullmatch("[a-z]+", word)]


COMMANDS = shell_commands(README)
XOPD_COMMANDS = sorted({tuple(subcommand(each)) for each in COMMANDS if each.startswith(".venv/bin/xopd ")})
MENTIONED_TARGETS = sorted(
    {
        match
        for text in (README, (ROOT / "CONTRIBUTING.md").read_text())
        for match in re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE)
    }
)


def test_the_two_commands_are_there() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_run_by_a_test(command: str) -> None:
    for start, (path, words) in RUN_BY.items():
        if command.startswith(start):
            assert words in (ROOT / path).read_text()
            return
    assert command.startswith(".venv/bin/xopd "), f"no test runs {command!r}"
    name = subcommand(command)[0]
    others = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert any(f'"{name}"' in path.read_text() for path in others), f"no test runs xopd {name}"


@pytest.mark.parametrize("name", XOPD_COMMANDS, ids=" ".join)
def test_each_xopd_command_exists_with_its_options(name: tuple[str, ...]) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "xopd", *name, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "TERM": "dumb", "PYTHONPATH": str(ROOT)},
    )
    assert shown.returncode == 0, shown.stderr
    for command in COMMANDS:
        if command.startswith(".venv/bin/xopd ") and tuple(subcommand(command)) == name:
            for option in re.findall(r"(?<= )--[a-z-]+", command):
                assert option in shown.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", MENTIONED_TARGETS)
def test_each_make_target_exists(target: str) -> None:
    planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert planned.returncode == 0, planned.stderr


def test_demo_runs_the_demo_configuration() -> None:
    planned = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "xopd up examples/tiny/demo.yaml --overwrite" in planned.stdout


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md"])
def test_links_and_named_files_exist(document: str) -> None:
    path = ROOT / document
    text = path.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), link
    for name in re.findall(r"`((?:xopd|services|tests|protos|requirements|examples|docs)/[\w./-]+)`", text):
        assert "NAME" in name or (ROOT / name).exists(), name
