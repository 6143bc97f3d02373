"""The picture at the head of a comparison: every model's score by part, with seeds and interval, on one row."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes

from xopd.report.comparison.looks import Look
from xopd.report.comparison.read import PARTS, Part
from xopd.report.comparison.statistics import Figures
from xopd.report.drawing import panels, svg
from xopd.report.palette import PAGE_INK, PAGE_OF, PAGE_QUIET, PAGE_TEACHER

LEAST_SPAN = 12.0
"""Points: no panel is narrower, so that small differences do not look large."""


@dataclass(frozen=True)
class Dot:
    """One model's score of one part; all in percent."""

    mean: float
    interval: tuple[float, float] | None
    seeds: tuple[float, ...] = ()


def head_picture(figures: Figures, looks: dict[str, Look]) -> str | None:
    """Teacher, base and every entry with a finished cell; None if there is nothing to show."""
    parts = [part for part in PARTS if part in figures.base or any(part in f.scores for f in figures.entries)]
    rows = _rows(figures, looks)
    if not parts or not rows:
        return None
    with panels(1, len(parts), (11.2, 1.0 + 0.33 * len(rows)), share_y=True) as (figure, axes):
        for place, part in zip(axes, parts, strict=True):
            _panel(place, part, rows, figures)
        axes[0].set_yticks(range(len(rows)), [label for label, *_ in rows])
        for tick, (_, look, _) in zip(axes[0].get_yticklabels(), rows, strict=True):
            tick.set_color(look.colour)
            tick.set_fontsize(9)
        return svg(figure)


def _rows(figures: Figures, looks: dict[str, Look]) -> list[tuple[str, Look, dict[Part, Dot]]]:
    rows: list[tuple[str, Look, dict[Part, Dot]]] = []
    if figures.teacher is not None:
        score = figures.teacher
        dot = Dot(100 * score.accuracy, (100 * score.ci95[0], 100 * score.ci95[1]))
        rows.append(("Teacher, text only", Look(PAGE_TEACHER, "|"), {"text": dot}))
    if figures.base:
        dots = {p: Dot(100 * a.accuracy, (100 * a.ci95[0], 100 * a.ci95[1])) for p, a in figures.base.items()}
        rows.append(("Base student", Look(PAGE_QUIET, "o"), dots))
    for found in figures.entries:
        dots = {}
        for part, score_ in found.scores.items():
            low_high = found.items.get(part)
            interval = None if low_high is None else (100 * low_high[0], 100 * low_high[1])
            dots[part] = Dot(100 * score_.mean, interval, tuple(100 * value for value in score_.values))
        if dots:
            rows.append((found.entry.title, looks[found.entry.name], dots))
    return rows


def _panel(axes: Axes, part: Part, rows: list[tuple[str, Look, dict[Part, Dot]]], figures: Figures) -> None:
    axes.set_title(f"{part} (% right)", color=PAGE_OF[part], fontsize=10, fontweight="bold", loc="left")
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if figures.teacher is not None and part != "retention":
        axes.axvline(100 * figures.teacher.accuracy, color=PAGE_TEACHER, linewidth=1, linestyle=(0, (4, 3)))
    if part in figures.base:
        axes.axvline(100 * figures.base[part].accuracy, color=PAGE_QUIET, linewidth=1, linestyle=(0, (1, 2)))
    seen = []
    for row, (_, look, dots) in enumerate(rows):
        dot = dots.get(part)
        if dot is None:
            continue
        seen += [dot.mean, *(dot.interval or ()), *dot.seeds]
        if dot.interval is not None:
            axes.plot(dot.interval, (row, row), color=look.colour, alpha=0.28, linewidth=6, solid_capstyle="butt")
        if len(dot.seeds) > 1:
            axes.plot(
                dot.seeds, [row] * len(dot.seeds), "|", color=look.colour, markersize=9, markeredgewidth=1.1, alpha=0.9
            )
        axes.plot([dot.mean], [row], marker=look.mark if look.mark != "|" else "o", color=look.colour, markersize=6)
        axes.annotate(
            f"{dot.mean:.1f}",
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=PAGE_INK,
        )
    if figures.teacher is not None and part != "retention":
        seen.append(100 * figures.teacher.accuracy)
    low, high = min(seen), max(seen)
    spare = max(LEAST_SPAN - (high - low), 0.08 * (high - low))
    axes.set_xlim(max(0.0, low - spare / 2) - 0.5, min(100.5, high + spare / 2 + 0.5))
