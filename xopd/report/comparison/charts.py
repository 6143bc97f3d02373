"""The charts of a comparison: all scores at a glance, and each entry's curves, its mean over seeds in a light band."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator

from xopd.evals.intervals import Accuracy
from xopd.report.charts import (
    ENTROPY,
    GAP,
    KL,
    LENGTH,
    MASS,
    REPETITION,
    TOP_K,
    WIDE,
    Chart,
    Curve,
    Points,
    Signal,
    draw,
    note,
    panels,
    series,
    svg,
)
from xopd.report.comparison.read import PARTS, Entry, Part
from xopd.report.comparison.statistics import Figures, OverSeeds
from xopd.report.records import RunFiles
from xopd.report.style import ENTRIES, PAGE_INK, PAGE_OF, PAGE_QUIET, PAGE_TEACHER

Band = Mapping[int, tuple[float, float]]
LEAST_SPAN = 12.0
"""Points: no panel is narrower, so that small differences do not look large."""
PANELS_IN_A_ROW = 5


class Look(NamedTuple):
    """How an entry is drawn, the same in charts, tables and legends."""

    colour: str
    mark: str


@dataclass(frozen=True)
class Section:
    """The curves of one table's entries."""

    title: str
    entries: list[Entry]
    charts: list[Chart]
    advantages: str | None


def looks_of(figures: Figures) -> dict[str, Look]:
    """The look of each entry by name; with more entries than looks, these repeat."""
    manifest = figures.comparison.manifest
    names = sorted((entry.name for entry in manifest.entries), key=lambda name: name != manifest.reference)
    return {name: Look(*ENTRIES[i % len(ENTRIES)]) for i, name in enumerate(names)}


def key_svg(look: Look) -> str:
    """A short piece of the entry's line with its mark, for a legend or a table."""
    mark = MarkerStyle(look.mark)
    outlines = mark.get_path().transformed(mark.get_transform()).to_polygons()
    corners = [[f"{13 + 9 * x:.1f} {6 - 9 * y:.1f}" for x, y in np.asarray(outline)] for outline in outlines]
    shape = "".join(f"M{'L'.join(outline)}z" for outline in corners)
    return (
        f'<svg class="key" width="26" height="12" viewBox="0 0 26 12" fill="{look.colour}" aria-hidden="true">'
        f'<path d="M1 6h24" stroke="{look.colour}" stroke-width="1.8"/><path d="{shape}"/></svg>'
    )


def sections_of(figures: Figures, looks: Mapping[str, Look]) -> list[Section]:
    """The curves of the methods, and those of the ablation beside the reference; only entries with finished seeds."""
    comparison = figures.comparison
    finished = [entry for entry in comparison.manifest.entries if comparison.of(entry.name)]
    methods = [entry for entry in finished if entry.group == "methods"]
    ablation = [entry for entry in finished if entry.group == "ablation"]
    if ablation and comparison.reference in finished:
        ablation = [comparison.reference, *ablation]
    return [
        Section(title, entries, _charts(figures, looks, entries, whole), _advantages(figures, looks, entries))
        for title, entries, whole in (("The methods", methods, True), ("The ablation", ablation, False))
        if entries
    ]


def band_of(curves: Sequence[Points]) -> tuple[Points, Band]:
    """Mean and range over seeds at each step that every seed with this curve has; both empty without such a step."""
    known = [curve for curve in curves if curve]
    # A step that some seeds lack would bend the mean where nothing happened.
    steps = sorted(set(known[0]).intersection(*known[1:])) if known else []
    values = {step: [curve[step] for curve in known] for step in steps}
    means = {step: statistics.fmean(found) for step, found in values.items()}
    return means, {step: (min(found), max(found)) for step, found in values.items()}


def head_picture(figures: Figures, looks: Mapping[str, Look]) -> str | None:
    """Every model's scores with seeds and interval, a panel a part; None if there is nothing to show."""
    parts = [part for part in PARTS if part in figures.base or any(part in f.scores for f in figures.entries)]
    rows: list[tuple[str, Look, Mapping[Part, Accuracy | OverSeeds], Mapping[Part, tuple[float, float]]]] = []
    if figures.teacher is not None:
        text = figures.teacher
        rows.append(("Teacher, text only", Look(PAGE_TEACHER, "o"), {"text": text}, {"text": text.ci95}))
    if figures.base:
        base = {part: score.ci95 for part, score in figures.base.items()}
        rows.append(("Base student", Look(PAGE_QUIET, "o"), figures.base, base))
    rows += [(f.entry.title, looks[f.entry.name], f.scores, f.items) for f in figures.entries if f.scores]
    if not parts or not rows:
        return None
    with panels(1, len(parts), (WIDE, 1.0 + 0.33 * len(rows))) as (figure, grid):
        for axes, part in zip(grid, parts, strict=True):
            seen = _levels(axes, figures, part)
            for row, (_, look, scores, intervals) in enumerate(rows):
                if part in scores:
                    seen += _score(axes, row, look, scores[part], intervals.get(part))
            low, high = min(seen), max(seen)
            spare = max(LEAST_SPAN - (high - low), 0.08 * (high - low))
            axes.set_xlim(max(0.0, low - spare / 2) - 0.5, min(100.5, high + spare / 2 + 0.5))
            axes.set_title(f"{part} (% right)", color=PAGE_OF[part], fontsize=10, fontweight="bold", loc="left")
            axes.grid(axis="y", visible=False)
            axes.spines["left"].set_visible(False)
        grid[0].set_ylim(len(rows) - 0.4, -0.6)
        grid[0].set_yticks(range(len(rows)), [label for label, *_ in rows])
        for tick, (_, look, *_) in zip(grid[0].get_yticklabels(), rows, strict=True):
            tick.set(color=look.colour, fontsize=9)
        return svg(figure)


def _levels(axes: Axes, figures: Figures, part: Part) -> list[float]:
    """Draw the teacher's and the base's scores as upright lines; returns the places that the panel must show (%)."""
    teacher = figures.teacher if part != "retention" else None
    if part in figures.base:
        axes.axvline(100 * figures.base[part].accuracy, color=PAGE_QUIET, linewidth=1, linestyle=(0, (1, 2)))
    if teacher is None:
        return []
    axes.axvline(100 * teacher.accuracy, color=PAGE_TEACHER, linewidth=1, linestyle=(0, (4, 3)))
    return [100 * teacher.accuracy]


def _score(
    axes: Axes, row: int, look: Look, score: Accuracy | OverSeeds, interval: tuple[float, float] | None
) -> list[float]:
    """Draw a model's score on its row; returns the places that the panel must show (%)."""
    mean, seeds = (score.mean, score.values) if isinstance(score, OverSeeds) else (score.accuracy, ())
    places = [100 * mean, *(100 * value for value in seeds)]
    if interval is not None:
        ends = [100 * bound for bound in interval]
        axes.plot(ends, [row, row], color=look.colour, alpha=0.28, linewidth=6, solid_capstyle="butt")
        places += ends
    if len(seeds) > 1:
        strokes: dict[str, Any] = {"markersize": 9, "markeredgewidth": 1.1, "alpha": 0.9}
        axes.plot([100 * value for value in seeds], [row] * len(seeds), "|", color=look.colour, **strokes)
    axes.plot([100 * mean], [row], marker=look.mark, color=look.colour, markersize=6)
    note(axes, f"{100 * mean:.1f}", (1.0, row), ("axes fraction", "data"), (4, 0), PAGE_INK, va="center", fontsize=8.5)
    return places


def _charts(figures: Figures, looks: Mapping[str, Look], entries: Sequence[Entry], whole: bool) -> list[Chart]:
    """The charts of some entries: accuracies, gap and distances; with `whole` the responses' other signals, too."""
    teacher = None if figures.teacher is None else 100 * figures.teacher.accuracy

    def _drawn(read: Callable[[RunFiles], Points], label: str, **how: Any) -> str | None:
        return draw(_curves(figures, looks, entries, read), label, **how)

    def _accuracy(part: Part) -> str | None:
        level = teacher if part != "retention" else None
        return _drawn(lambda run: _dev(run, part), f"{part}, dev split (% right)", teacher=level)

    def _gap() -> str | None:
        if teacher is None:
            return None
        top = teacher
        return _drawn(
            lambda run: {step: top - value for step, value in _dev(run, "speech").items()},
            "teacher minus speech (points)",
            zero=True,
        )

    def _signal(signal: Signal, modality: str) -> tuple[str, str | None]:
        title = signal.title if signal is GAP else f"{signal.title}, given {modality}"
        path = f"{modality}.{signal.field}"
        return title, _drawn(lambda run: series(run.probes, path, signal.scale), signal.label, zero=signal.zero)

    charts = [
        ("Accuracy by speech", _accuracy("speech")),
        ("Accuracy by text", _accuracy("text")),
        ("Retention", _accuracy("retention")),
        _signal(GAP, "speech"),
        *([("Gap between teacher and speech", _gap())] if whole else []),
        _signal(KL, "speech"),
        _signal(KL, "text"),
        *(_signal(signal, "speech") for signal in ((ENTROPY, LENGTH, TOP_K, MASS, REPETITION) if whole else ())),
    ]
    return [(title, chart) for title, chart in charts if chart is not None]


def _advantages(figures: Figures, looks: Mapping[str, Look], entries: Sequence[Entry]) -> str | None:
    """A panel an entry: median advantage of speech tokens in the band from the 5th to the 95th percentile."""

    def _quantile(name: str) -> list[Curve]:
        return _curves(figures, looks, entries, lambda run: series(run.probes, f"speech.advantage.{name}"))

    curves = zip(entries, _quantile("p5"), _quantile("p50"), _quantile("p95"), strict=True)
    found = [each for each in curves if all(curve.points for curve in each[1:])]
    if not found:
        return None
    rows = -(-len(found) // PANELS_IN_A_ROW)
    columns = min(PANELS_IN_A_ROW, len(found))
    with panels(rows, columns, (WIDE, 0.5 + 1.9 * rows), share=True) as (figure, grid):
        for axes, (entry, low, middle, high) in zip(grid, found, strict=False):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True, steps=[1, 2, 5, 10]))
            axes.axhline(0, color=PAGE_QUIET, linewidth=0.8)
            ends = [list(curve.points.values()) for curve in (low, high)]
            axes.fill_between(list(low.points), *ends, color=middle.colour, alpha=0.18, linewidth=0)
            axes.plot(list(middle.points), list(middle.points.values()), color=middle.colour, linewidth=1.5)
            axes.set_title(entry.title, color=middle.colour, fontsize=8.5)
        for empty in grid[len(found) :]:
            empty.set_axis_off()
        figure.supxlabel("optimiser step", fontsize=8.5, color=PAGE_QUIET)
        figure.supylabel("advantage (nats)", fontsize=8.5, color=PAGE_QUIET)
        return svg(figure)


def _curves(
    figures: Figures, looks: Mapping[str, Look], entries: Sequence[Entry], read: Callable[[RunFiles], Points]
) -> list[Curve]:
    """What `read` finds in each entry's finished runs, as its mean and range over seeds."""
    comparison = figures.comparison
    curves = []
    for entry in entries:
        mean, band = band_of([read(cell.run) for cell in comparison.of(entry.name)])
        reference = entry.name == comparison.manifest.reference
        curves.append(Curve(looks[entry.name].colour, mean, "", band, looks[entry.name].mark, reference))
    return curves


def _dev(run: RunFiles, part: Part) -> Points:
    return series((record for record in run.evals if record.split == "dev"), f"scores.{part}.accuracy", 100)
