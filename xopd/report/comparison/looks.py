"""One colour and one mark for each entry of a comparison, the same in figures, tables and legends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from xopd.report.comparison.read import Entry, Manifest
from xopd.report.palette import ENTRIES

SHAPES = {
    "o": '<circle cx="13" cy="6" r="3.6"/>',
    "s": '<path d="M9.6 2.6h6.8v6.8h-6.8z"/>',
    "^": '<path d="M13 1.6l4.4 8h-8.8z"/>',
    "D": '<path d="M13 1.4l4.6 4.6-4.6 4.6-4.6-4.6z"/>',
    "v": '<path d="M13 10.4l4.4-8h-8.8z"/>',
    "P": '<path d="M11.6 1.8h2.8v2.8h2.8v2.8h-2.8v2.8h-2.8v-2.8h-2.8v-2.8h2.8z"/>',
    "X": '<path d="M10 1.8l3 2.6 3-2.6 1.4 1.6-2.6 2.6 2.6 2.6-1.4 1.6-3-2.6-3 2.6-1.4-1.6 2.6-2.6-2.6-2.6z"/>',
    "<": '<path d="M8.6 6l8-4.4v8.8z"/>',
    ">": '<path d="M17.4 6l-8-4.4v8.8z"/>',
    "p": '<path d="M13 1.8l4.2 3-1.6 5h-5.2l-1.6-5z"/>',
}
"""matplotlib's marks as shapes of an SVG of 26 × 12."""


@dataclass(frozen=True)
class Look:
    """How an entry is drawn."""

    colour: str
    mark: str


def looks_of(manifest: Manifest) -> dict[str, Look]:
    """The look of each entry by name; with more entries than looks, these repeat."""
    names = sorted((entry.name for entry in manifest.entries), key=lambda name: name != manifest.reference)
    return {name: Look(*ENTRIES[i % len(ENTRIES)]) for i, name in enumerate(names)}


def key_svg(look: Look) -> str:
    """A short piece of the entry's line with its mark, for a legend or a table."""
    return (
        f'<svg class="key" width="26" height="12" viewBox="0 0 26 12" fill="{look.colour}" aria-hidden="true">'
        f'<path d="M1 6h24" stroke="{look.colour}" stroke-width="1.8"/>{SHAPES[look.mark]}</svg>'
    )


def legend(entries: Iterable[Entry], looks: dict[str, Look]) -> str:
    """The legend of the curves, as HTML."""
    keys = "".join(f"<span>{key_svg(looks[entry.name])}{escape(entry.title)}</span>" for entry in entries)
    return f'<p class="legend keys">{keys}</p>'
