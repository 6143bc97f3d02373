"""What computes the teacher's log-probabilities: the interface, and two engines that follow it."""

from xopd_teacher.engines.base import (
    Batch,
    Engine,
    EngineInfo,
    Generated,
    GenerateItem,
    ScoreItem,
)

__all__ = [
    "Batch",
    "Engine",
    "EngineInfo",
    "GenerateItem",
    "Generated",
    "ScoreItem",
]
