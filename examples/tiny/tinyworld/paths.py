"""Where the tiny world keeps its things, all under `examples/tiny`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
WORK = ROOT / "work"
CHECKPOINTS = ROOT / "checkpoints"
STUDENT, TEACHER = CHECKPOINTS / "student", CHECKPOINTS / "teacher"
TEACHER_LARGE = CHECKPOINTS / "teacher_large"
PROBE = CHECKPOINTS / "probe.safetensors"
CEILING = ROOT / "ceiling.json"
