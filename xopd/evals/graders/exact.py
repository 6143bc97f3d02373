"""Graders that hold a response, or its final answer, against the item's `answer`, word by word in the normal form.

Where no answer is expected nothing is right.
"""

from __future__ import annotations

from xopd.data.items import Item
from xopd.evals.graders.normal_form import characters_alike, without_ends, written_alike

MARKER = "answer"


class FinalAnswer:
    """The words after the last `answer` of a response are the expected ones. Without that word it is wrong."""

    name = "final_answer"
    expects = "compared are the words after the last `answer` of a response, and they must not be empty"

    def grade(self, response: str, item: Item) -> bool:
        """Whether the response ends in the item's answer."""
        gold = written_alike(item.answer)
        return gold != "" and final_answer(response) == gold

    def can_be_right(self, item: Item) -> bool:
        """Whether some response is right: not for full stops alone, nor for an answer with the word `answer`."""
        return self.grade(f"{MARKER} {item.answer}", item)


class ExactMatch:
    """The whole response is the expected answer."""

    name = "exact_match"
    expects = "compared is the whole response, and it must not be empty"

    def grade(self, response: str, item: Item) -> bool:
        """Whether the response is the item's answer."""
        gold = written_alike(item.answer)
        return gold != "" and written_alike(response) == gold

    def can_be_right(self, item: Item) -> bool:
        """Whether some response is right: not for full stops alone."""
        return self.grade(item.answer, item)


def final_answer(response: str) -> str | None:
    """The words after the last `answer` of a response, in the normal form; None without that word."""
    words = characters_alike(response).split()
    if MARKER not in words:
        return None
    last = len(words) - 1 - words[::-1].index(MARKER)
    return without_ends(" ".join(words[last + 1 :]))
