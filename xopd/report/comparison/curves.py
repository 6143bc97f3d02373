"""The curves of a comparison: a line an entry, its mean over seeds, in a light band from the lowest to the highest."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from xopd.report.comparison.looks import Look
from xopd.report.comparison.read import Comparison, Entry, Part
from xopd.report.comparison.statistics import Figures
from xopd.report.drawing import drawing, panels, svg
from xopd.report.palette import PAGE_QUIET, PAGE_TEACHER
from xopd.report.records import ModalityStep, RunFiles

Points = dict[int, float]
"""A curve: value by step."""
Signal = Callable[[ModalityStep], float | None]
PANELS_IN_A_ROW = 5


@dataclass(frozen=True)
class Band:
    """A figure over steps: mean over seeds, and the lowest and highest of them."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Curves:
    """Draws the curves of some entries of a comparison."""

    comparison: Comparison
    figures: Figures
    looks: dict[str, Look]
    entries: Sequence[Entry]

    def accuracy(self, part: Part) -> str | None:
        """Dev accuracy of a part over steps (%), beside the teacher's text score."""
        return self._draw(lambda run: _scores(run, part), f"{part}, dev split (% right)", teacher=part != "retention")

    def gap(self) -> str | None:
        """Teacher's text score minus the dev speech score, in points."""
        if self.figures.teacher is None:
            return None
        top = 100 * self.figures.teacher.accuracy
        return self._draw(
            lambda run: {step: top - value for step, value in _scores(run, "speech").items()},
            "teacher minus speech (points)",
            zero=True,
        )

    def signal(self, modality: str, read: Signal, label: str, scale: float = 1.0, zero: bool = False) -> str | None:
        """A signal of the probes over steps, times `scale`."""
        return self._draw(partial(_probed, modality, read, scale), label, zero)

    def advantages(self) -> str | None:
        """A panel an entry: median advantage of speech tokens in the band from the 5th to the 95th percentile."""
        found = []
        for entry in self.entries:
            low, middle, high = (self._band(entry, partial(_probed, "speech", read, 1.0)) for read in QUANTILES)
            if low is not None and middle is not None and high is not None:
                found.append((entry, low, middle, high))
        if not found:
            return None
        rows = -(-len(found) // PANELS_IN_A_ROW)
        columns = min(PANELS_IN_A_ROW, len(found))
        with panels(rows, columns, (11.2, 0.5 + 1.9 * rows), share_x=True, share_y=True) as (figure, axes):
            for place, (entry, low, middle, high) in zip(axes, found, strict=False):
                look = self.looks[entry.name]
                place.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True, steps=[1, 2, 5, 10]))
                place.axhline(0, color=PAGE_QUIET, linewidth=0.8)
                place.fill_between(low.steps, low.mean, high.mean, color=look.colour, alpha=0.18, linewidth=0)
                place.plot(middle.steps, middle.mean, color=look.colour, linewidth=1.5)
                place.set_title(entry.title, color=look.colour, fontsize=8.5)
            for empty in axes[len(found) :]:
                empty.set_axis_off()
            figure.supxlabel("optimiser step", fontsize=8.5, color=PAGE_QUIET)
            figure.supylabel("advantage (nats)", fontsize=8.5, color=PAGE_QUIET)
            return svg(figure)

    def _draw(
        self, read: Callable[[RunFiles], Points], label: str, zero: bool = False, teacher: bool = False
    ) -> str | None:
        bands = [(entry, band) for entry in self.entries if (band := self._band(entry, read)) is not None]
        if not bands:
            return None
        with drawing("optimiser step", label) as (figure, axes):
            for entry, band in bands:
                _line(axes, band, self.looks[entry.name], entry.name == self.comparison.manifest.reference)
            if teacher and self.figures.teacher is not None:
                top = 100 * self.figures.teacher.accuracy
                axes.axhline(top, color=PAGE_TEACHER, linewidth=1.2, linestyle=(0, (4, 3)))
                axes.annotate(
                    "teacher, text",
                    (1, top),
                    xycoords=("axes fraction", "data"),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="right",
                    fontsize=7.5,
                    color=PAGE_TEACHER,
                )
                axes.margins(y=0.12)
            axes.set_xlim(left=0)
            if zero:
                axes.set_ylim(bottom=min(0.0, *(min(band.low) for _, band in bands)))
            return svg(figure)

    def _band(self, entry: Entry, read: Callable[[RunFiles], Points]) -> Band | None:
        return band_of([read(cell.run) for cell in self.comparison.of(entry.name)])


def band_of(curves: Sequence[Points]) -> Band | None:
    """Mean and range over seeds at each step that every seed with this curve has; None without such a step."""
    known = [curve for curve in curves if curve]
    if not known:
        return None
    # A step that some seeds lack would bend the mean where nothing happened.
    steps = sorted(set(known[0]).intersection(*known[1:]))
    if not steps:
        return None
    columns = [[curve[step] for curve in known] for step in steps]
    return Band(steps, [statistics.fmean(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns])


QUANTILES: tuple[Signal, Signal, Signal] = (
    lambda part: None if part.advantage is None else part.advantage.p5,
    lambda part: None if part.advantage is None else part.advantage.p50,
    lambda part: None if part.advantage is None else part.advantage.p95,
)


def _line(axes: Axes, band: Band, look: Look, reference: bool) -> None:
    axes.fill_between(band.steps, band.low, band.high, color=look.colour, alpha=0.13, linewidth=0)
    few = len(band.steps) <= 24
    axes.plot(
        band.steps,
        band.mean,
        color=look.colour,
        # The reference is broad and lies below, so that a line on the same path can be seen on it.
        linewidth=2.8 if reference else 1.3,
        zorder=2.0 if reference else 2.2,
        marker=look.mark if few else None,
        markersize=4.6 if reference else 3.6,
    )


def _scores(run: RunFiles, part: Part) -> Points:
    return {
        record.step: 100 * score.accuracy
        for record in run.evals
        if record.split == "dev" and (score := record.scores.get(part)) is not None
    }


def _probed(modality: str, read: Signal, scale: float, run: RunFiles) -> Points:
    points = {}
    for probe in run.probes:
        part = probe.speech if modality == "speech" else probe.text
        value = read(part) if part is not None else None
        if value is not None:
            points[probe.step] = scale * value
    return points
