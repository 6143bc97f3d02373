"""One colour a thing, in the terminal and on the pages, and figures as people read them.

Speech is orange, text is blue, retention is green.
"""

from __future__ import annotations

from collections.abc import Sequence

SPEECH = "dark_orange"
TEXT = "dodger_blue2"
RETENTION = "sea_green3"
QUIET = "bright_black"

PAGE_SPEECH = "#d9631e"
PAGE_TEXT = "#2b6cb0"
PAGE_RETENTION = "#2f855a"
PAGE_TEACHER = "#4a4a4a"
PAGE_INK = "#1c1c1c"
PAGE_QUIET = "#767676"
PAGE_LINE = "#dddddd"

PAGE_OF = {"speech": PAGE_SPEECH, "text": PAGE_TEXT, "retention": PAGE_RETENTION}

STAGES = {
    "rollout": "#5b7fa6",
    "score": "#a8695a",
    "learn": "#6d9f71",
    "sync": "#c9a227",
    "wait": "#b9b9b9",
}
"""The stages of a step and their colours, in the order they happen."""

ENTRIES = (
    ("#b5175e", "o"),
    ("#0e8c8c", "s"),
    ("#b7890a", "^"),
    ("#6a4c93", "D"),
    ("#8a5a44", "v"),
    ("#5f7f1e", "P"),
    ("#3b4a54", "X"),
    ("#d4679a", "<"),
    ("#4f8fd0", ">"),
    ("#9a9a2b", "p"),
)
"""Colour and matplotlib mark of each entry of a comparison, the reference first; none is that of a modality."""


def duration(seconds: float | None) -> str:
    """Seconds for people: `4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds is None or seconds != seconds:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as `61.3 %`; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def count(number: float | None) -> str:
    """A count with thin separators: `12,345`; a dash for None."""
    return "–" if number is None else f"{number:,.0f}"


def sparkline(values: Sequence[float | None], width: int = 24) -> str:
    """The last `width` values as block characters, lowest to highest of them; empty for fewer than two."""
    known = [value for value in values if value is not None and value == value][-width:]
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)
    blocks = "▁▂▃▄▅▆▇█"
    span = (high - low) or 1.0
    return "".join(blocks[min(7, int((value - low) / span * 8))] for value in known)
