"""Is a response right? Its final answer is the words after the last `answer`, compared with the gold as people read it.

Both sides are written alike first: case, spaces, Unicode's ways to write one character, typographic quotes and dashes,
and full stops at the ends do not count. Signs, decimal points and exponents do: -3, 3, 1.5, 15, 10² and 102 all differ.
"""

from __future__ import annotations

import re
import unicodedata

MARKER = "answer"

_SUPERSCRIPTS, _SUBSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "₀₁₂₃₄₅₆₇₈₉₊₋"
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′ʼ‹›´`", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        "⁄": "/",
        # Soft hyphen, spaces of no width, and marks of direction: nobody sees them.
        **dict.fromkeys("\u00ad\u200b\u2060\ufeff\u200e\u200f"),
    }
)
_ENDS = " .。"
"""What is left out at both ends of an answer."""


def final_answer(response: str) -> str | None:
    """The words after the last `answer` of a response, as `written_alike` has them; None without that word."""
    words = _characters_alike(response).split()
    if MARKER not in words:
        return None
    last = len(words) - 1 - words[::-1].index(MARKER)
    return _without_ends(" ".join(words[last + 1 :]))


def is_correct(response: str, answer: str) -> bool:
    """Whether the response's final answer is `answer`. No final answer is wrong, not left out."""
    gold = written_alike(answer)
    # Nothing is right where no answer is known.
    return gold != "" and final_answer(response) == gold


def can_be_right(answer: str) -> bool:
    """Whether some response is right for this gold: not for full stops alone, nor for one with the word `answer`."""
    return is_correct(f"{MARKER} {answer}", answer)


def written_alike(text: str) -> str:
    """An answer with all that does not count in it written in one way: single-spaced, in lower case."""
    return _without_ends(" ".join(_characters_alike(text).split()))


def _characters_alike(text: str) -> str:
    # Compatibility forms would take 10² for 102, 1½ for 11/2, and the inch of 5″ for two quotes.
    text = re.sub(f"[{_SUPERSCRIPTS}]+", lambda found: f"^{found[0]}", text)
    text = re.sub(rf"(?<=\d)[{_SUBSCRIPTS}]+", lambda found: f"_{found[0]}", text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅟↉])", " ", text)
    # Folding undoes some of normalisation, and begins from one form of what is canonically the same.
    text = text.translate(_PLAIN)
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", text).casefold())
    return unicodedata.normalize("NFKC", text.casefold()).translate(_PLAIN)


def _without_ends(text: str) -> str:
    text = text.rstrip(_ENDS)
    bare = text.lstrip(_ENDS)
    # One full stop right before a digit is a decimal point.
    cut = text[: len(text) - len(bare)]
    return f".{bare}" if bare[:1].isdecimal() and cut.endswith(".") and not cut.endswith("..") else bare
