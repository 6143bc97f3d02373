"""The generated code of the wire is what the pinned generator makes of protos/, and runs on the pinned grpcio."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version
from xopd_teacher.service import LogprobService

from xopd.v1 import teacher_pb2

ROOT = Path(__file__).resolve().parents[2]
GENERATED = sorted((ROOT / "xopd" / "v1").glob("*_pb2*.py"))


def pinned(requirement_set: str, name: str) -> Version:
    text = (ROOT / "requirements" / f"{requirement_set}.txt").read_text()
    match = re.search(rf"^{name}==(\S+)$", text, re.MULTILINE)
    assert match is not None, f"{requirement_set}.txt lacks {name}"
    return Version(match[1])


def test_every_source_has_its_generated_files() -> None:
    sources = {path.stem for path in (ROOT / "protos" / "xopd" / "v1").glob("*.proto")}
    assert {path.name for path in GENERATED} == {
        f"{source}_pb2{suffix}.py" for source in sources for suffix in ("", "_grpc")
    }


def test_regenerating_changes_nothing() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "tools" / "protos.py", "--check"], capture_output=True, text=True, timeout=60
    )
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("path", [path for path in GENERATED if path.name.endswith("_grpc.py")], ids=lambda p: p.name)
def test_stubs_accept_the_pinned_grpcio(path: Path) -> None:
    """The stubs refuse to import beside a grpcio older than their generator."""
    guard = re.search(r"^GRPC_GENERATED_VERSION = '(.+)'$", path.read_text(), re.MULTILINE)
    assert guard is not None
    assert Version(guard[1]) == pinned("dev", "grpcio-tools")
    for requirement_set in ("xopd", "rollout-cpu", "rollout-gpu", "teacher", "trainer"):
        assert pinned(requirement_set, "grpcio") >= Version(guard[1])


@pytest.mark.parametrize("path", [path for path in GENERATED if path.name.endswith("_pb2.py")], ids=lambda p: p.name)
def test_messages_accept_the_pinned_protobuf(path: Path) -> None:
    guard = re.search(r"^# Protobuf Python Version: (\S+)$", path.read_text(), re.MULTILINE)
    assert guard is not None
    runtime = pinned("xopd", "protobuf")
    assert runtime.major == Version(guard[1]).major
    assert runtime >= Version(guard[1])


def test_the_teacher_answers_every_method() -> None:
    # Those that it does not define are inherited from generated code, where they raise NotImplementedError.
    methods = [method.name for method in teacher_pb2.DESCRIPTOR.services_by_name["LogprobService"].methods]
    assert methods
    assert set(methods) <= vars(LogprobService).keys()
