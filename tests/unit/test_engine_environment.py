"""What the pod sets in the environment before its engine is imported."""

from __future__ import annotations

import os

import pytest
from xopd_rollout.environment import runs_on_cpu, set_environment

from xopd.config.schema import RolloutSettings

CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A copy of the environment in place of this process's own."""
    own = {name: value for name, value in os.environ.items() if name != CACHE}
    monkeypatch.setattr(os, "environ", own)
    return own


def test_the_compiled_products_of_an_engine_on_the_cpu_are_bounded(environment: dict[str, str]) -> None:
    set_environment(RolloutSettings())
    assert (CACHE in environment) == runs_on_cpu()
    if runs_on_cpu():
        assert int(environment[CACHE]) <= 128


def test_what_the_user_has_set_stays(environment: dict[str, str]) -> None:
    environment |= {CACHE: "7", "OMP_NUM_THREADS": "3"}
    set_environment(RolloutSettings(threads=1))
    assert environment[CACHE] == "7"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["MKL_NUM_THREADS"] == "1"
