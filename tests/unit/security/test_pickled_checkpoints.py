"""A checkpoint that would have to be unpickled is refused, by the trainer's loader and by the teacher's engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from xopd_teacher.engines.open import open_engine

from tests.random_models import make_student, make_teacher
from xopd.config.schema import TeacherSettings
from xopd.errors import UserError
from xopd.families import open_family


def pickled(folder: Path) -> Path:
    """The same checkpoint with a .bin file in place of its safetensors."""
    (weights,) = folder.glob("*.safetensors")
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    return folder


def test_a_student(tmp_path):
    folder = pickled(make_student(tmp_path / "student"))
    with pytest.raises(UserError, match=r"student\.path .*safetensors"):
        open_family(str(folder)).load_policy(torch.float32)


def test_a_teacher(tmp_path):
    folder = pickled(make_teacher(tmp_path / "teacher"))
    with pytest.raises(UserError, match=r"teacher\.path .*safetensors"):
        open_engine(TeacherSettings(path=str(folder)))
