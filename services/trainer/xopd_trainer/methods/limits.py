"""Whether the teacher serves as much of its distribution as a method needs."""

from __future__ import annotations

from xopd.errors import UserError
from xopd.scoring import TeacherClient


async def check_top_k(teacher: TeacherClient, top_k: int, wanted_by: str) -> None:
    """Hold `top_k` against the teachers' limit.

    Raises:
        UserError: if a teacher gives fewer tokens.
    """
    limit = await teacher.max_top_k()
    if top_k > limit:
        raise UserError(
            f"{wanted_by} needs the teacher's {top_k} most probable tokens, and it gives {limit} at most:"
            " raise teacher.max_top_k where the teacher runs, or lower objective.top_k."
        )
