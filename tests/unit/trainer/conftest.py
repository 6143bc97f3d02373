"""Random checkpoints and a handful of clips for the trainer's unit tests."""

import copy
import functools
import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.clips import rules
from tests.random_models import make_student, make_teacher
from xopd.config import Config
from xopd.data.features import AudioEncoder, FeatureCache
from xopd.families import ModelFamily, open_family


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(student, teacher): the student's language model is the teacher's."""
    folder = tmp_path_factory.mktemp("checkpoints")
    teacher = make_teacher(folder / "teacher")
    return make_student(folder / "student", language_model_of=teacher), teacher


@pytest.fixture(scope="session")
def other_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that is not the student's language model."""
    return make_teacher(tmp_path_factory.mktemp("other") / "teacher", seed=7)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Three clips of noise, as (uri, sha256)."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    named = []
    for i, seconds in enumerate((0.7, 1.1, 1.6)):
        path = folder / f"{i}.flac"
        soundfile.write(path, rng.normal(0, 0.1, int(16000 * seconds)).astype(np.float32), 16000)
        named.append((str(path), hashlib.sha256(path.read_bytes()).hexdigest()))
    return named


@pytest.fixture(scope="session")
def family(checkpoints: tuple[Path, Path]) -> ModelFamily:
    """The student's; it is read from disk once a dtype and copied for each learner, for speed."""
    opened = open_family(str(checkpoints[0]))
    # Not read once and cast: what the model keeps in float32 in any case, such as rotary frequencies, would be too.
    load = functools.cache(opened.load_policy)
    opened.load_policy = lambda dtype: copy.deepcopy(load(dtype))
    return opened


@pytest.fixture(scope="session")
def encoder(family: ModelFamily) -> AudioEncoder:
    return family.load_audio_encoder(torch.float32)


@pytest.fixture(scope="session")
def features(encoder: AudioEncoder, tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("features"), encoder, 16000, rules("/"))


@pytest.fixture
def config(checkpoints: tuple[Path, Path], tmp_path: Path) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "unit", "directory": str(tmp_path / "runs"), "steps": 10},
            "data": {"manifest": "items.jsonl"},
            "student": {"path": str(checkpoints[0])},
            "teacher": {"path": str(checkpoints[1])},
            "optimiser": {"learning_rate": 1e-3},
        }
    )
