"""What the pages draw: one style, curves over steps, and the charts of a run; each becomes SVG text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xopd.report.records import EvalRecord, ProbeRecord, RunFiles, Score, StepRecord, Summary
from xopd.report.style import PAGE_INK, PAGE_LINE, PAGE_OF, PAGE_QUIET, PAGE_TEACHER, STAGES

Points = Mapping[int, float]
"""A curve: value by step."""
Records = Iterable[StepRecord | ProbeRecord | EvalRecord]
MODALITIES = ("speech", "text")
SIZE = (5.4, 2.75)
"""Inches; the page shows two charts beside each other."""
WIDE = 11.2
FEW = 25
"""Curves of fewer points, such as those of probes, have a mark at each."""
SMOOTHED_FROM = 40
"""Runs of so many steps get a running mean over the raw curve."""
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


@dataclass(frozen=True)
class Curve:
    """One line over optimiser steps, and the band around it where there is one."""

    colour: str
    points: Points
    name: str = ""
    band: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    mark: str = "o"
    reference: bool = False
    """Broad, and below the others, so that a line on the same path can be seen on it."""


class Signal(NamedTuple):
    """A figure of the responses to one modality's prompts, and how it is drawn."""

    field: str
    """Of ModalityStep."""
    title: str
    label: str
    scale: float = 1.0
    zero: bool = True


KL = Signal("kl", "Distance to the teacher", "KL to the teacher (nats a token)")
GAP = Signal("modality_gap", "Distance between speech and text", "KL, speech to text (nats a token)")
TOP_K = Signal("top_k_overlap", "Agreement with the teacher: top tokens", "shared top-k tokens (%)", 100, zero=False)
MASS = Signal(
    "teacher_mass", "Agreement with the teacher: probability", "π of the teacher, mean over tokens", zero=False
)
NLL = Signal("nll", "Likelihood of the targets", "−log π of the targets (nats a token)")
ENTROPY = Signal("entropy", "Entropy of the policy", "entropy (nats a token)")
LENGTH = Signal("length", "Response length", "response length (tokens)")
TRUNCATED = Signal("truncated", "Truncated responses", "truncated responses (%)", 100)
REPETITION = Signal("repetition", "Repetition", "repeated 4-grams (%)", 100)

Chart = tuple[str, str]
"""Title and SVG."""


@contextmanager
def panels(rows: int, columns: int, size: tuple[float, float], share: bool = False) -> Iterator[tuple[Figure, Any]]:
    """A grid of axes, row by row, in a figure of `size` (inches); draw before the context ends."""
    # Figure without pyplot: no global state, nothing to close.
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # the stubs list every key
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, sharex=share, sharey=True, squeeze=False).flatten().tolist()
        for axes in grid:
            axes.tick_params(length=0)
            axes.margins(x=0.02)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))
        yield figure, grid


def svg(figure: Figure) -> str:
    """The drawing as SVG text, without an XML head; the same figure gives the same text."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def own_ids(drawn: str, name: str) -> str:
    """Ids of one drawing made different from those of the others on the page, by the prefix `name`."""
    return drawn.replace('id="', f'id="{name}-').replace('"#', f'"#{name}-').replace("url(#", f"url(#{name}-")


def series(records: Records, path: str, scale: float = 1.0) -> dict[int, float]:
    """By step, the figure at `path`, such as `speech.kl` or `tokens_per_s.rollout`; steps that lack it are left out."""
    found = {}
    for record in records:
        value: Any = record
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
        if value is not None:
            found[record.step] = scale * value
    return found


def draw(
    curves: Iterable[Curve], label: str, zero: bool = False, smooth: bool = False, teacher: float | None = None
) -> str | None:
    """Curves over steps as SVG; None where none has a point.

    Args:
        curves: those without points are left out; those with names get a legend.
        label: of the upright axis.
        zero: whether that axis begins at 0, or below where a value does.
        smooth: whether long curves are drawn thin below their running mean.
        teacher: the teacher's text score, as a dashed line.
    """
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    with panels(1, 1, SIZE) as (figure, [axes]):
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(label)
        for curve in curves:
            _line(axes, curve, smooth and len(curve.points) >= SMOOTHED_FROM)
        named = any(curve.name for curve in curves)
        if teacher is not None:
            name = "teacher, text"
            axes.axhline(teacher, color=PAGE_TEACHER, linewidth=1.2, linestyle=(0, (4, 3)), label=name)
            axes.margins(y=0.12)
            if not named:
                note(axes, name, (1, teacher), ("axes fraction", "data"), (0, 3), PAGE_TEACHER, ha="right")
        if zero:
            lows = [
                low for curve in curves for low in (*curve.points.values(), *(low for low, _ in curve.band.values()))
            ]
            axes.set_ylim(bottom=min(0.0, *lows))
        if named:
            axes.legend(loc="best", fontsize=8)
        return svg(figure)


def note(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    coordinates: Any,
    offset: tuple[float, float],
    colour: str,
    **how: Any,
) -> None:
    """Small text beside a point, `offset` in typographic points."""
    how = {"fontsize": 8, "color": colour, **how}
    axes.annotate(text, at, xycoords=coordinates, xytext=offset, textcoords="offset points", **how)


def signal_chart(run: RunFiles, signal: Signal) -> str | None:
    """A signal by modality, of the steps; a supervised method's steps may lack it, then of its probes."""
    curves = [Curve(PAGE_OF[m], _measured(run, f"{m}.{signal.field}", signal.scale), m) for m in MODALITIES]
    # The modality gap has one curve, of speech, and the legend would say what the title does.
    named = curves if signal is not GAP else [Curve(curve.colour, curve.points) for curve in curves]
    return draw(named, signal.label, signal.zero, smooth=True)


def run_charts(run: RunFiles) -> list[Chart]:
    """All charts of a run that have something to show."""
    dev = [record for record in run.evals if record.split == "dev"]
    teacher = run.summary.teacher.text if run.summary is not None else None
    accuracy = [
        Curve(colour, series(dev, f"scores.{part}.accuracy", 100), part, _intervals(dev, part))
        for part, colour in PAGE_OF.items()
    ]
    losses = (
        ("loss", "whole", PAGE_INK),
        ("loss_cross", "cross-modal (speech)", PAGE_OF["speech"]),
        ("loss_in", "in-modal (text)", PAGE_OF["text"]),
    )
    stages = (("rollout", "rollout"), ("teacher", "score"), ("trainer", "learn"))
    loss = [Curve(colour, series(run.steps, name), label) for name, label, colour in losses]
    rates = [Curve(STAGES[stage], series(run.steps, f"tokens_per_s.{name}"), name) for name, stage in stages]
    gradient = [Curve(PAGE_INK, series(run.steps, "grad_norm"))]
    level = None if teacher is None else 100 * teacher.accuracy
    drawn = (
        ("Accuracy while training", draw(accuracy, "accuracy on the dev split (%)", teacher=level)),
        (KL.title, signal_chart(run, KL)),
        ("Advantage", _advantages(run)),
        *((signal.title, signal_chart(run, signal)) for signal in (GAP, TOP_K, MASS)),
        ("Loss", draw(loss, "loss (nats)", smooth=True)),
        *((signal.title, signal_chart(run, signal)) for signal in (NLL, ENTROPY, LENGTH, TRUNCATED, REPETITION)),
        ("Gradient norm", draw(gradient, "gradient norm", zero=True, smooth=True)),
        ("Time of a step", _step_times([record for record in run.steps if record.seconds])),
        ("Throughput", draw(rates, "tokens/s", zero=True, smooth=True)),
    )
    return [(title, chart) for title, chart in drawn if chart is not None]


def gap_figure(summary: Summary, ceiling: float | None = None) -> Figure | None:
    """The picture at the head of a run's page: base to final on one scale of accuracy, with 95 % intervals.

    Args:
        summary: the finished run; its teacher's text score is an upright line.
        ceiling: the information ceiling as a share, another such line, or None.
    """
    scores = [(part, getattr(summary.base, part), getattr(summary.final, part)) for part in PAGE_OF]
    rows = [row for row in scores if row[1] is not None and row[2] is not None]
    if not rows:
        return None
    with panels(1, 1, (WIDE, 0.9 + 0.42 * len(rows))) as (figure, [axes]):
        seen = [place for row, (part, *pair) in enumerate(rows) for place in _arrow(axes, row, PAGE_OF[part], *pair)]
        teacher = None if summary.teacher.text is None else summary.teacher.text.accuracy
        levels = (
            ("text-only teacher", teacher, PAGE_TEACHER, (0, (4, 3)), 16),
            ("information ceiling", ceiling, PAGE_QUIET, (0, (1, 2)), 4),
        )
        low, high = min(seen), max(seen)
        for name, share, colour, dashes, above in levels:
            if share is not None:
                level = 100 * share
                low, high = min(low, level), max(high, level)
                axes.axvline(level, color=colour, linewidth=1.4, linestyle=dashes)
                side = "right" if level > 50 else "left"
                note(axes, name, (level, 1), ("data", "axes fraction"), (0, above), colour, ha=side)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_yticks(range(len(rows)), [part for part, *_ in rows])
        for tick, (part, *_) in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set(color=PAGE_OF[part], fontsize=11, fontweight="bold")
        axes.set_xlim(max(0.0, low - 6) - 0.5, min(100.0, high + 6) + 0.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("right answers on the test split (%)")
        return figure


def _arrow(axes: Axes, row: int, colour: str, base: Score, final: Score) -> list[float]:
    """From base to final on one row; returns the places that must lie on the scale (%)."""
    before, after = 100 * base.accuracy, 100 * final.accuracy
    low, high = (100 * bound for bound in final.ci95 or (final.accuracy, final.accuracy))
    axes.barh(row, high - low, left=low, height=0.42, color=colour, alpha=0.16)
    axes.plot([before, after], [row, row], color=colour, linewidth=3)
    axes.plot([before], [row], "o", markersize=8, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=2)
    axes.plot([after], [row], "o", markersize=9, color=colour)
    if abs(after - before) > 3:
        note(axes, f"{before:.0f}", (before, row), "data", (0, 9), PAGE_QUIET, ha="center")
    note(
        axes,
        f"{after:.1f} %",
        (1, row),
        ("axes fraction", "data"),
        (6, 0),
        PAGE_INK,
        va="center",
        fontsize=11,
        fontweight="bold",
    )
    return [before, after, low, high]


def _advantages(run: RunFiles) -> str | None:
    curves = []
    for modality in MODALITIES:
        low, high = (_measured(run, f"{modality}.advantage.{end}") for end in ("p5", "p95"))
        band = {step: (low[step], high[step]) for step in low if step in high}
        means = _measured(run, f"{modality}.advantage.mean")
        curves.append(Curve(PAGE_OF[modality], means, f"{modality}: mean, 5 % to 95 %", band))
    return draw(curves, "advantage (nats)")


def _step_times(records: Sequence[StepRecord]) -> str | None:
    """Seconds of a step by stage, one on the other, at no more than 400 steps."""
    if not records:
        return None
    records = records[:: -(-len(records) // 400)]
    values = [[record.seconds.get(stage, 0.0) for record in records] for stage in STAGES]
    totals = sorted(map(sum, zip(*values, strict=True)))
    with panels(1, 1, SIZE) as (figure, [axes]):
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("seconds a step")
        steps = [record.step for record in records]
        axes.stackplot(steps, values, labels=list(STAGES), colors=list(STAGES.values()), linewidth=0)
        # One slow step, such as the first, would flatten all others.
        axes.set_ylim(0, max(1.6 * totals[int(0.95 * (len(totals) - 1))], 1e-3))
        axes.legend(loc="upper right", ncols=5, fontsize=7.5, columnspacing=0.9, handlelength=0.8)
        return svg(figure)


def _line(axes: Axes, curve: Curve, smooth: bool) -> None:
    steps, values = list(curve.points), list(curve.points.values())
    if curve.band:
        low, high = zip(*curve.band.values(), strict=True)
        axes.fill_between(list(curve.band), low, high, color=curve.colour, alpha=0.13, linewidth=0)
    width, mark, order = (2.8, 4.6, 2.0) if curve.reference else (1.5, 3.6, 2.2)
    name = curve.name or None
    if smooth:
        axes.plot(steps, values, color=curve.colour, linewidth=0.8, alpha=0.28)
        axes.plot(steps, _running_mean(values), color=curve.colour, linewidth=width, label=name)
    else:
        marker = curve.mark if len(steps) < FEW else None
        axes.plot(
            steps, values, color=curve.colour, linewidth=width, marker=marker, markersize=mark, zorder=order, label=name
        )


def _running_mean(values: Sequence[float], window: int = 9) -> list[float]:
    """Mean over the `window` nearest values, fewer at the ends."""
    near = [values[max(0, i - window // 2) : i + window // 2 + 1] for i in range(len(values))]
    return [sum(some) / len(some) for some in near]


def _measured(run: RunFiles, path: str, scale: float = 1.0) -> dict[int, float]:
    return series(run.steps, path, scale) or series(run.probes, path, scale)


def _intervals(records: Iterable[EvalRecord], part: str) -> dict[int, tuple[float, float]]:
    scores = [(record.step, record.scores.get(part)) for record in records]
    return {step: (100 * s.ci95[0], 100 * s.ci95[1]) for step, s in scores if s is not None and s.ci95 is not None}
