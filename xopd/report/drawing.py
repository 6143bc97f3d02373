"""How the pages draw: one style for all figures, and a figure as the text of an SVG drawing."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xopd.report.palette import PAGE_INK, PAGE_LINE, PAGE_QUIET

SIZE = (5.4, 2.75)
"""Inches; the page shows two drawings beside each other."""
STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.edgecolor": PAGE_LINE,
    "axes.labelcolor": PAGE_QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PAGE_LINE,
    "grid.linewidth": 0.5,
    "xtick.color": PAGE_QUIET,
    "ytick.color": PAGE_QUIET,
    "text.color": PAGE_INK,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "svg.fonttype": "path",
    "svg.hashsalt": "xopd",
}


@contextmanager
def drawing(x: str, y: str) -> Iterator[tuple[Figure, Axes]]:
    """One pair of axes with the labels `x` and `y`; save the figure before the context ends."""
    with panels(1, 1, SIZE) as (figure, [axes]):
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        yield figure, axes


@contextmanager
def panels(
    rows: int, columns: int, size: tuple[float, float], share_x: bool = False, share_y: bool = False
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A grid of axes, row by row, in a figure of `size` (inches); save the figure before the context ends."""
    # Figure without pyplot: no global state, nothing to close.
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # the stubs list every key
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, sharex=share_x, sharey=share_y, squeeze=False)
        found: list[Axes] = [axes for row in grid for axes in row]
        for axes in found:
            axes.tick_params(length=0)
            axes.margins(x=0.02)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))
        yield figure, found


def svg(figure: Figure) -> str:
    """The drawing as SVG text, without an XML head; the same figure gives the same text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def own_ids(drawn: str, name: str) -> str:
    """Ids of one drawing made different from those of the others on the page, by the prefix `name`."""
    return drawn.replace('id="', f'id="{name}-').replace('"#', f'"#{name}-').replace("url(#", f"url(#{name}-")


def running_mean(values: Sequence[float], window: int = 9) -> list[float]:
    """Mean over the `window` nearest values, fewer at the ends."""
    half = window // 2
    means = []
    for i in range(len(values)):
        near = values[max(0, i - half) : i + half + 1]
        means.append(sum(near) / len(near))
    return means
