"""The trainer's and the tools' way to teacher pods. Imports no torch."""

from xopd.scoring.answers import GeneratedResponse
from xopd.scoring.client import TeacherClient
from xopd.scoring.errors import BadAnswerError, ScoringError, TeacherUnreachableError, UnscorableError

__all__ = [
    "BadAnswerError",
    "GeneratedResponse",
    "ScoringError",
    "TeacherClient",
    "TeacherUnreachableError",
    "UnscorableError",
]
