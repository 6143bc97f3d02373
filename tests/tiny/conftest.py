"""Makes the tiny world's package importable, one thread a process."""

import sys
from pathlib import Path

import pytest
import torch

TINY = Path(__file__).resolve().parents[2] / "examples" / "tiny"
sys.path.insert(0, str(TINY))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
