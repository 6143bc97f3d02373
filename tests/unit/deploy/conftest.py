"""The rendered overlays, once."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def lint() -> ModuleType:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module("lint_deploy")
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="session")
def rendered(lint: ModuleType) -> Callable[[str], list[dict[str, Any]]]:
    """Gives an overlay's resources; skips where there is no kustomize."""

    @functools.cache
    def _render(overlay: str) -> list[dict[str, Any]]:
        try:
            return list(lint.render(overlay))
        except lint.LeftOutError as why:
            pytest.skip(f"rendering deploy/k8s {why}")

    return _render
