"""What every test has in common: threads, order, a time limit by kind, and what was left out and why."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path

import pytest

# Before any test module imports torch: several processes share a small machine, and two threads each are several
# times slower than one. Nothing is ever fetched from a model hub.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

TESTS = Path(__file__).resolve().parent
ORDER = ("unit", "tiny", "integration", "e2e")  # quick ones first: a broken unit is told in seconds
LIMITS_S = {"unit": 60, "tiny": 120, "integration": 180, "e2e": 600}  # where a test names none itself


def pytest_configure(config: pytest.Config) -> None:
    """Have the same surroundings however the tests are started."""
    # A shell's background jobs ignore it, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Services that are killed leave temporary files, such as an engine's sockets.
    folder = tempfile.mkdtemp(prefix="xopd-tests-")
    os.environ["TMPDIR"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def _kind(item: pytest.Item) -> str:
    try:
        return item.path.relative_to(TESTS).parts[0]
    except ValueError:
        return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order by kind, and give each test without a limit of its own the limit of its kind."""
    items.sort(key=lambda item: ORDER.index(_kind(item)) if _kind(item) in ORDER else len(ORDER))
    for item in items:
        if item.get_closest_marker("timeout") is None and _kind(item) in LIMITS_S:
            item.add_marker(pytest.mark.timeout(LIMITS_S[_kind(item)]))


_LEFT_OUT = pytest.StashKey[int]()


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count the long tests that `-m "not long"` leaves out."""
    for item in items:
        if item.get_closest_marker("long") is not None:
            item.config.stash[_LEFT_OUT] = item.config.stash.get(_LEFT_OUT, 0) + 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not tested and why: a skipped test is a gap that a reader should see."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    if long := terminalreporter.config.stash.get(_LEFT_OUT, 0):
        reasons["long, run by make test-all"] = long
    if reasons:
        terminalreporter.section("left out")
        for reason, count in sorted(reasons.items()):
            terminalreporter.write_line(f"{count} test{'s' * (count > 1)}: {reason}")
