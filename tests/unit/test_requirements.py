"""The pinned requirement sets: consistent as files, and complete for what is installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    sys.path.insert(0, str(ROOT / "requirements"))
    try:
        return importlib.import_module("lock")
    finally:
        sys.path.remove(str(ROOT / "requirements"))


def test_files_agree_with_one_another(lock: ModuleType) -> None:
    assert lock.check_files(lock.read_roots()) == []


def test_closures_are_complete(lock: ModuleType) -> None:
    problems, unchecked = lock.check_closures(lock.read_roots())
    assert problems == []
    assert {note.split(".txt")[0] for note in unchecked} <= {"rollout-gpu", "torch-cuda", "bench"}


def test_a_cpu_machine_gets_no_cuda(lock: ModuleType) -> None:
    pins = lock.parse((ROOT / "requirements" / "all-cpu.txt").read_text(), "all-cpu.txt")
    forbidden = ("torchvision", "torchaudio", "torchcodec", "triton", "nvidia-", "cuda-", "vllm==")
    assert [name for name in pins if f"{name}==".startswith(forbidden)] == []


@pytest.mark.parametrize("line", ["numpy>=2", "numpy", "torch==2.13.0+cpu", "-r other.txt", "Numpy==2.3.5"])
def test_a_line_that_is_no_exact_pin_is_refused(lock: ModuleType, line: str) -> None:
    with pytest.raises(lock.LockError, match="line 2"):
        lock.parse(f"# a set\n{line}\n", "some.txt")


def test_two_versions_of_one_name_are_found(lock: ModuleType) -> None:
    roots = lock.read_roots()
    sets = {name: {"numpy": "2.3.5"} for name in roots.sets} | {"teacher": {"numpy": "2.3.4"}}
    assert any(
        "numpy is 2.3.5" in found and "2.3.4 in teacher.txt" in found for found in lock._disagreements(roots, sets)
    )


def test_a_distribution_that_is_not_installed_is_named(lock: ModuleType) -> None:
    wanted = lock.RequirementSet(name="some", about="", roots=("no-such-distribution",), excluded=())
    with pytest.raises(lock.LockError, match=r"no-such-distribution \(needed by roots.toml\) is not installed"):
        lock.installed_closure(wanted, lock.marker_environments(("3.11.0",)))
