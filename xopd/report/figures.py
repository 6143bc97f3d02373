"""The curves of a run, each as one SVG drawing (text of the file)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xopd.report.palette import PAGE_INK, PAGE_LINE, PAGE_OF, PAGE_QUIET, PAGE_TEACHER, STAGES
from xopd.report.records import EvalRecord, ModalityStep, RunFiles, Score, StepRecord

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
MODALITIES = ("speech", "text")
SMOOTHED_FROM = 40
"""Runs of so many steps get a running mean over the raw curve."""


def accuracy_curve(run: RunFiles) -> str | None:
    """Accuracy on the dev split over steps, by part."""
    records = [record for record in run.evals if record.split == "dev"]
    if not records:
        return None
    with _drawing("optimiser step", "accuracy on the dev split (%)") as (figure, axes):
        for part, colour in PAGE_OF.items():
            points = [(record.step, score) for record in records if (score := record.scores.get(part)) is not None]
            if points:
                _accuracy_line(axes, points, part, colour)
        teacher = run.summary.teacher.text if run.summary is not None else None
        if teacher is not None:
            axes.axhline(
                100 * teacher.accuracy, color=PAGE_TEACHER, linewidth=1.2, linestyle=(0, (4, 3)), label="teacher, text"
            )
        axes.set_ylim(*_percent_limits(records, teacher))
        axes.set_xlim(left=0)
        axes.legend(loc="lower right", fontsize=8)
        return _svg(figure)


def kl_curve(run: RunFiles) -> str | None:
    """KL to the teacher by modality."""
    return _by_modality(run.steps, lambda step: step.kl, "KL to the teacher (nats a token)", zero=True)


def entropy_curve(run: RunFiles) -> str | None:
    """Entropy of the policy by modality."""
    return _by_modality(run.steps, lambda step: step.entropy, "entropy (nats a token)", zero=True)


def length_curve(run: RunFiles) -> str | None:
    """Mean response length by modality."""
    return _by_modality(run.steps, lambda step: step.length, "response length (tokens)", zero=True)


def truncation_curve(run: RunFiles) -> str | None:
    """Share of truncated responses by modality."""
    return _by_modality(
        run.steps,
        lambda step: None if step.truncated is None else 100 * step.truncated,
        "truncated responses (%)",
        zero=True,
    )


def advantage_curve(run: RunFiles) -> str | None:
    """Mean advantage by modality in its band from the 5th to the 95th percentile over tokens."""
    if not run.steps:
        return None
    with _drawing("optimiser step", "advantage (nats)") as (figure, axes):
        axes.axhline(0, color=PAGE_QUIET, linewidth=0.8)
        for modality in MODALITIES:
            points = [(r.step, part.advantage) for r in run.steps if (part := _part(r, modality)) is not None]
            if not points:
                continue
            band = [(step, spread.p5, spread.p95) for step, spread in points if spread.p5 is not None]
            if band:
                steps, low, high = zip(*band, strict=True)
                axes.fill_between(steps, low, high, color=PAGE_OF[modality], alpha=0.15, linewidth=0)
            steps_, means = zip(*((step, spread.mean) for step, spread in points), strict=True)
            axes.plot(steps_, means, color=PAGE_OF[modality], linewidth=1.4, label=f"{modality}: mean, 5 % to 95 %")
        axes.legend(loc="lower right", fontsize=8)
        return _svg(figure)


def loss_curve(run: RunFiles) -> str | None:
    """The loss and its two halves."""
    curves: tuple[tuple[str, str, Callable[[StepRecord], float | None]], ...] = (
        ("whole", PAGE_INK, lambda r: r.loss),
        ("cross-modal (speech)", PAGE_OF["speech"], lambda r: r.loss_cross),
        ("in-modal (text)", PAGE_OF["text"], lambda r: r.loss_in),
    )
    return _lines(run.steps, "loss (nats)", curves)


def gradient_curve(run: RunFiles) -> str | None:
    """Norm of the gradient before clipping."""
    return _lines(run.steps, "gradient norm", (("", PAGE_INK, lambda r: r.grad_norm),), zero=True)


def seconds_curve(run: RunFiles) -> str | None:
    """Seconds of a step by stage, one on the other."""
    records = [record for record in run.steps if record.seconds]
    if not records:
        return None
    records = _thinned(records, 400)
    with _drawing("optimiser step", "seconds a step") as (figure, axes):
        values = [[record.seconds.get(stage, 0.0) for record in records] for stage in STAGES]
        axes.stackplot(
            [record.step for record in records],
            values,
            labels=list(STAGES),
            colors=list(STAGES.values()),
            linewidth=0,
        )
        totals = sorted(sum(column) for column in zip(*values, strict=True))
        # One slow step, such as the first, would flatten all others.
        axes.set_ylim(0, max(1.6 * totals[int(0.95 * (len(totals) - 1))], 1e-3))
        axes.legend(loc="upper right", ncols=5, fontsize=7.5, columnspacing=0.9, handlelength=0.8)
        return _svg(figure)


def throughput_curve(run: RunFiles) -> str | None:
    """Tokens a second of each stage while it works."""

    def _of(stage: str) -> Callable[[StepRecord], float | None]:
        return lambda record: record.tokens_per_s.get(stage)

    stages = (("rollout", "rollout"), ("teacher", "score"), ("trainer", "learn"))
    return _lines(run.steps, "tokens/s", tuple((name, STAGES[stage], _of(name)) for name, stage in stages), zero=True)


def _by_modality(
    steps: Sequence[StepRecord],
    read: Callable[[ModalityStep], float | None],
    label: str,
    zero: bool = False,
) -> str | None:
    def _of(modality: str) -> Callable[[StepRecord], float | None]:
        return lambda record: None if (part := _part(record, modality)) is None else read(part)

    return _lines(steps, label, tuple((m, PAGE_OF[m], _of(m)) for m in MODALITIES), zero)


def _lines(
    steps: Sequence[StepRecord],
    label: str,
    curves: Sequence[tuple[str, str, Callable[[StepRecord], float | None]]],
    zero: bool = False,
) -> str | None:
    found = []
    for name, colour, read in curves:
        points = [(record.step, value) for record in steps if (value := read(record)) is not None]
        if points:
            found.append((name, colour, points))
    if not found:
        return None
    with _drawing("optimiser step", label) as (figure, axes):
        for name, colour, points in found:
            xs, ys = [step for step, _ in points], [value for _, value in points]
            many = len(points) >= SMOOTHED_FROM
            axes.plot(
                xs,
                ys,
                color=colour,
                linewidth=0.8 if many else 1.5,
                alpha=0.28 if many else 1.0,
                marker="o" if len(points) == 1 else None,
                label=None if many else name,
            )
            if many:
                axes.plot(xs, _running_mean(ys), color=colour, linewidth=1.6, label=name)
        if zero:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if min(y for _, _, p in found for _, y in p) < 0 else 0.0)
        if any(name for name, _, _ in found):
            axes.legend(loc="best", fontsize=8)
        return _svg(figure)


def _accuracy_line(axes: Axes, points: Sequence[tuple[int, Score]], part: str, colour: str) -> None:
    steps = [step for step, _ in points]
    axes.plot(
        steps,
        [100 * score.accuracy for _, score in points],
        color=colour,
        linewidth=1.5,
        marker="o",
        markersize=3.5,
        label=part,
    )
    band = [(step, score.ci95) for step, score in points if score.ci95 is not None]
    if len(band) > 1:
        low, high = [100 * ci[0] for _, ci in band], [100 * ci[1] for _, ci in band]
        axes.fill_between([step for step, _ in band], low, high, color=colour, alpha=0.12, linewidth=0)


def _percent_limits(records: Sequence[EvalRecord], teacher: Score | None) -> tuple[float, float]:
    values = [100 * score.accuracy for record in records for score in record.scores.values() if score is not None]
    values += [100 * teacher.accuracy] if teacher is not None else []
    low = max(0.0, min(values, default=0.0) - 12)
    return low, max(low + 20, min(103.0, max(values, default=100.0) + 6))


def _part(record: StepRecord, modality: str) -> ModalityStep | None:
    return record.speech if modality == "speech" else record.text


def _running_mean(values: Sequence[float], window: int = 9) -> list[float]:
    half = window // 2
    means = []
    for i in range(len(values)):
        near = values[max(0, i - half) : i + half + 1]
        means.append(sum(near) / len(near))
    return means


def _thinned(records: Sequence[StepRecord], most: int) -> list[StepRecord]:
    stride = max(1, -(-len(records) // most))
    return list(records[::stride])


@contextmanager
def _drawing(x: str, y: str) -> Iterator[tuple[Figure, Axes]]:
    # Figure without pyplot: no global state, nothing to close.
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # the stubs list every key
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.tick_params(length=0)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        yield figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
