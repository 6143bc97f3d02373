"""Figures as people read them: durations, shares, counts, and a line of blocks."""

from __future__ import annotations

from collections.abc import Sequence


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
