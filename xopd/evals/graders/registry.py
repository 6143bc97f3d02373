"""Graders by name. A new one is a class with what `Grader` asks for, in a file of its own, and a line in GRADERS.

A grader sees whole responses only: one that was cut off at the longest length, or is missing, is wrong whatever the
grader. It is asked often and by several threads of work, so it keeps nothing between two calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from xopd.data.items import Item
from xopd.errors import UserError
from xopd.evals.graders.exact import ExactMatch, FinalAnswer


class Grader(Protocol):
    """Says whether a response to an item is right."""

    @property
    def name(self) -> str:
        """Its name in `evals.grader`."""

    @property
    def expects(self) -> str:
        """What it compares, and what it needs of an item's `answer`: a clause for messages, such as `xopd check`'s."""

    def grade(self, response: str, item: Item) -> bool:
        """Whether `response` is right: text as the student's tokenizer decodes it, without the end of turn."""

    def can_be_right(self, item: Item) -> bool:
        """Whether there is a response to `item` that it takes for right; `xopd check` rejects an item without one."""


GRADERS: Mapping[str, Grader] = MappingProxyType({grader.name: grader for grader in (FinalAnswer(), ExactMatch())})


def grader_named(name: str) -> Grader:
    """The grader that `evals.grader` names.

    Raises:
        UserError: if there is none of that name; the sentence lists the known ones.
    """
    if name not in GRADERS:
        raise UserError(f"evals.grader {name!r}: there is no such grader; choose one of {', '.join(sorted(GRADERS))}.")
    return GRADERS[name]
