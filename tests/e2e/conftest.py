"""Runs that end with their test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.world import Run


@pytest.fixture
def start():
    """Start `xopd up`."""
    runs: list[Run] = []

    def _start(config: Path, *options: str) -> Run:
        runs.append(Run(config, *options))
        return runs[-1]

    yield _start
    for run in runs:
        run.stop()
