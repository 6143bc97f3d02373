"""Is a response right? Its final answer is the words after the last `answer`."""

from __future__ import annotations

MARKER = "answer"


def final_answer(response: str) -> str | None:
    """The words after the last `answer` of a response, single-spaced and in lower case; None without the word."""
    words = response.lower().split()
    if MARKER not in words:
        return None
    last = len(words) - 1 - words[::-1].index(MARKER)
    return " ".join(words[last + 1 :]).strip(" .")


def is_correct(response: str, answer: str) -> bool:
    """Whether the response's final answer is exactly `answer`. No final answer is wrong, not left out."""
    return final_answer(response) == " ".join(answer.lower().split())
