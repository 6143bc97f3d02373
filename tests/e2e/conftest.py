"""Runs that end with their test, and finished ones that many tests read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import Run, make_world
from tests.otlp import GrpcReceiver


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


@pytest.fixture(scope="session")
def unwanted_receiver() -> Iterator[GrpcReceiver]:
    """A receiver of traces that the environment of `finished` names, and its configuration does not."""
    with GrpcReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, unwanted_receiver: GrpcReceiver) -> Run:
    """A finished run of four steps in both modalities, with evaluations, as the configuration has it by default."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", unwanted_receiver.endpoint)
        run = Run(make_world(tmp_path_factory.mktemp("finished")))
    assert run.wait(420) == 0, run.text()
    return run


@pytest.fixture(scope="session")
def equal(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on text whose student equals its teacher, all but 64 rows of padding in the teacher's head.

    Its traces go to a receiver that is gone.
    """
    with GrpcReceiver() as receiver:
        gone = receiver.endpoint
    config = make_world(
        tmp_path_factory.mktemp("equal"),
        padded_rows=64,
        objective={"lambda": 0.0},
        evals={"every": 0},
        run={"steps": 2},
        tracing={"endpoint": gone},
    )
    run = Run(config, "--set", "optimiser.learning_rate=1e-12")
    assert run.wait(420) == 0, run.text()
    return run
