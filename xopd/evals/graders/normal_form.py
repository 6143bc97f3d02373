"""Text as people read it: the form in which answers are compared.

Case, spaces, Unicode's ways to write one character, typographic quotes and dashes, and full stops at the ends do not
count. Signs, decimal points and exponents do: -3, 3, 1.5, 15, 10² and 102 all differ.
"""

from __future__ import annotations

import re
import unicodedata

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


def written_alike(text: str) -> str:
    """An answer with all that does not count in it written in one way: single-spaced, in lower case."""
    return without_ends(" ".join(characters_alike(text).split()))


def characters_alike(text: str) -> str:
    """`text` with one way to write each character, in lower case; its spaces and ends are as they were."""
    # Compatibility forms would take 10² for 102, 1½ for 11/2, and the inch of 5″ for two quotes.
    text = re.sub(f"[{_SUPERSCRIPTS}]+", lambda found: f"^{found[0]}", text)
    text = re.sub(rf"(?<=\d)[{_SUBSCRIPTS}]+", lambda found: f"_{found[0]}", text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅟↉])", " ", text)
    # Folding undoes some of normalisation, and begins from one form of what is canonically the same.
    text = text.translate(_PLAIN)
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", text).casefold())
    return unicodedata.normalize("NFKC", text.casefold()).translate(_PLAIN)


def without_ends(text: str) -> str:
    """`text` without the spaces and full stops at its ends; that of a decimal point stays."""
    text = text.rstrip(_ENDS)
    bare = text.lstrip(_ENDS)
    # One full stop right before a digit is a decimal point.
    cut = text[: len(text) - len(bare)]
    return f".{bare}" if bare[:1].isdecimal() and cut.endswith(".") and not cut.endswith("..") else bare
