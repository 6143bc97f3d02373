"""What can go wrong between a trainer and its teachers."""

from __future__ import annotations

from xopd.errors import UserError


class ScoringError(Exception):
    """A teacher refused a call, failed it for good, or answered what cannot be right."""


class UnscorableError(ScoringError):
    """One request that cannot be scored, others may be: refused, or answered with what cannot be right."""


class BadAnswerError(UnscorableError):
    """An answer that cannot be right: of another model, incomplete, or impossible."""


class TeacherUnreachableError(ScoringError, UserError):
    """No teacher pod could be had within the limit; the sentence names the endpoints."""
