"""A service that cannot have its port or its folder ends at once: one sentence, status 2, no traceback."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import make_world
from tests.integration.forked import run
from xopd.local.embedded_redis import HOST


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("mistakes"))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        yield int(other.getsockname()[1])


def sentence(service: str, world: Path, *sets: str) -> str:
    """What `service` ends with; nothing that it would connect to is there."""
    # Redis and teacher are not there: a sentence about them would mean that the mistake was found too late.
    given = ["redis.url=redis://127.0.0.1:1", "redis.connect_timeout_s=1", "teacher.endpoints=[127.0.0.1:1]", *sets]
    done = run(
        [f"xopd_{service}", "--config", str(world), *(word for each in given for word in ("--set", each))],
        {name: value for name, value in os.environ.items() if not name.startswith("XOPD_")},
    )
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    [found] = [line for line in done.stderr.splitlines() if line.startswith("xopd: ")]
    assert done.stderr.splitlines()[-1] == found  # the last line of a log is what an operator sees first
    return found


@pytest.mark.parametrize(
    ("service", "setting"),
    [
        ("trainer", "trainer.port"),
        ("rollout", "rollout.port"),
        ("teacher", "teacher.port"),
        ("teacher", "teacher.http_port"),
    ],
)
def test_a_taken_port(service: str, setting: str, world: Path, taken: int) -> None:
    found = sentence(service, world, f"{setting}={taken}")
    assert found.startswith(f"xopd: {setting}: {HOST}:{taken} cannot be bound")
    assert "set another" in found


@pytest.mark.parametrize(
    ("service", "setting", "reported"),
    [
        ("trainer", "run.directory", "/small"),
        ("trainer", "weights.uri", ""),
        ("trainer", "student.feature_cache", ""),
        ("rollout", "student.feature_cache", ""),
    ],
)
@pytest.mark.parametrize("folder", ["file/below", "/proc/nowhere"])  # a volume that is no folder; one not writable
def test_a_folder_that_cannot_be_written(
    service: str, setting: str, reported: str, folder: str, world: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / folder
    found = sentence(service, world, f"run.directory={tmp_path / 'runs'}", f"{setting}={path}")
    assert found.startswith(f"xopd: {setting} {path}{reported}: cannot be written by user {os.getuid()} (")
    assert "mount a volume there" in found


def test_folders_that_are_missing_are_made(world: Path, tmp_path: Path) -> None:
    sets = (f"run.directory={tmp_path / 'runs'}", f"weights.uri={tmp_path / 'weights'}")
    assert "redis.url" in sentence("trainer", world, *sets, f"student.feature_cache={tmp_path / 'features'}")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "weights", "features"}
    assert list(tmp_path.rglob(".writable-*")) == []
