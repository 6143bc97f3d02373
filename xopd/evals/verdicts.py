"""Graded answers, and the scores that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xopd.evals.intervals import Accuracy, accuracy_of


@dataclass(frozen=True)
class Verdict:
    """One graded answer."""

    item_id: str
    response: str
    correct: bool
    cut: bool = False
    """Whether the answer reached the longest length without an end of turn: then it is not right."""
    fault: str = ""
    """Why there is no answer: then the item counts as wrong."""
    asked: str = ""
    """A digest of the item and of what was asked with it: a score of other items is not taken over."""


@dataclass(frozen=True)
class Evaluation:
    """Graded answers by the name of their part, see `xopd.evals.parts`. Items that failed count as wrong."""

    verdicts: dict[str, list[Verdict]]

    def scores(self) -> dict[str, Accuracy]:
        """Accuracy of each part that has items."""
        return {part: accuracy_of([v.correct for v in vs]) for part, vs in self.verdicts.items() if vs}

    def right(self, part: str) -> dict[str, bool]:
        """Whether each item of a part was answered rightly, by its id; empty for a part that was not asked."""
        return {verdict.item_id: verdict.correct for verdict in self.verdicts.get(part, [])}

    def as_json(self) -> dict[str, Any]:
        """The scores, for records: with each the number of answers that were cut off, and of items without one."""
        return {part: score_json(verdicts) for part, verdicts in self.verdicts.items() if verdicts}


def score_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Accuracy with its interval, and how many of the wrong answers were cut off or are missing."""
    counted = {"cut": sum(v.cut for v in verdicts), "unanswered": sum(bool(v.fault) for v in verdicts)}
    return {**accuracy_of([v.correct for v in verdicts]).as_json(), **counted}
