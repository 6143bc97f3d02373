"""What a mistyped name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence on an unknown name: the closest known one, or where all are listed.

    Args:
        word: what was written.
        known: what could have been.
        prefix: the section that `known` belongs to.
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if not close:
        return f"; see docs/CONFIG.md{f' for those of `{prefix}`' if prefix else ''}"
    return f" (did you mean `{close[0]}`?)"
