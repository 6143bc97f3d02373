"""What can go wrong between a trainer and its teachers."""

from __future__ import annotations

from xopd.errors import UserError


class ScoringError(Exception):
    """A teacher refused a call, failed it for good, or answered what cannot be right."""


class TeacherUnreachableError(ScoringError, UserError):
    """No teacher pod could be had within the patience; the sentence names the endpoints."""
