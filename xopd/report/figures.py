"""The curves of a run, each as one SVG drawing (text of the file)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from matplotlib.axes import Axes

from xopd.report.drawing import drawing, running_mean, svg
from xopd.report.palette import PAGE_INK, PAGE_OF, PAGE_QUIET, PAGE_TEACHER, STAGES
from xopd.report.records import EvalRecord, ModalityStep, ProbeRecord, RunFiles, Score, StepRecord

V = TypeVar("V")
Points = list[tuple[int, float]]
"""A curve: step and value."""
MODALITIES = ("speech", "text")
FEW = 20
"""Curves of fewer points, such as those of probes, have a mark at each."""
SMOOTHED_FROM = 40
"""Runs of so many steps get a running mean over the raw curve."""


def accuracy_curve(run: RunFiles) -> str | None:
    """Accuracy on the dev split over steps, by part."""
    records = [record for record in run.evals if record.split == "dev"]
    if not records:
        return None
    with drawing("optimiser step", "accuracy on the dev split (%)") as (figure, axes):
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
        return svg(figure)


def kl_curve(run: RunFiles) -> str | None:
    """KL to the teacher by modality."""
    return _by_modality(run, lambda step: step.kl, "KL to the teacher (nats a token)", zero=True)


def entropy_curve(run: RunFiles) -> str | None:
    """Entropy of the policy by modality."""
    return _by_modality(run, lambda step: step.entropy, "entropy (nats a token)", zero=True)


def length_curve(run: RunFiles) -> str | None:
    """Mean response length by modality."""
    return _by_modality(run, lambda step: step.length, "response length (tokens)", zero=True)


def truncation_curve(run: RunFiles) -> str | None:
    """Share of truncated responses by modality."""
    return _by_modality(
        run,
        lambda step: _hundred(step.truncated),
        "truncated responses (%)",
        zero=True,
    )


def overlap_curve(run: RunFiles) -> str | None:
    """Share of the policy's most probable tokens that are among the teacher's, by modality."""
    return _by_modality(run, lambda step: _hundred(step.top_k_overlap), "shared top-k tokens (%)")


def teacher_mass_curve(run: RunFiles) -> str | None:
    """Mean probability of the sampled tokens under the teacher, by modality."""
    return _by_modality(run, lambda step: step.teacher_mass, "π of the teacher, mean over tokens")


def modality_gap_curve(run: RunFiles) -> str | None:
    """KL between the policy given speech and given text."""
    points = _signal(run, "speech", lambda step: step.modality_gap)
    return _lines("KL, speech to text (nats a token)", (("", PAGE_OF["speech"], points),), zero=True)


def repetition_curve(run: RunFiles) -> str | None:
    """Share of repeated 4-grams by modality."""
    return _by_modality(run, lambda step: _hundred(step.repetition), "repeated 4-grams (%)", zero=True)


def nll_curve(run: RunFiles) -> str | None:
    """Negative log-likelihood of a supervised method's targets by modality."""
    return _by_modality(run, lambda step: step.nll, "−log π of the targets (nats a token)", zero=True)


def advantage_curve(run: RunFiles) -> str | None:
    """Mean advantage by modality in its band from the 5th to the 95th percentile over tokens."""
    spreads = {m: _signal(run, m, lambda step: step.advantage) for m in MODALITIES}
    if not any(spreads.values()):
        return None
    with drawing("optimiser step", "advantage (nats)") as (figure, axes):
        axes.axhline(0, color=PAGE_QUIET, linewidth=0.8)
        for modality, points in spreads.items():
            if not points:
                continue
            band = [(n, a.p5, a.p95) for n, a in points if a.p5 is not None and a.p95 is not None]
            if band:
                steps, low, high = zip(*band, strict=True)
                axes.fill_between(steps, low, high, color=PAGE_OF[modality], alpha=0.15, linewidth=0)
            steps_, means = zip(*((step, spread.mean) for step, spread in points), strict=True)
            axes.plot(steps_, means, color=PAGE_OF[modality], linewidth=1.4, label=f"{modality}: mean, 5 % to 95 %")
        axes.legend(loc="lower right", fontsize=8)
        return svg(figure)


def loss_curve(run: RunFiles) -> str | None:
    """The loss and its two halves."""
    halves = (
        ("whole", PAGE_INK, _of_steps(run, lambda r: r.loss)),
        ("cross-modal (speech)", PAGE_OF["speech"], _of_steps(run, lambda r: r.loss_cross)),
        ("in-modal (text)", PAGE_OF["text"], _of_steps(run, lambda r: r.loss_in)),
    )
    return _lines("loss (nats)", halves)


def gradient_curve(run: RunFiles) -> str | None:
    """Norm of the gradient before clipping."""
    return _lines("gradient norm", (("", PAGE_INK, _of_steps(run, lambda r: r.grad_norm)),), zero=True)


def seconds_curve(run: RunFiles) -> str | None:
    """Seconds of a step by stage, one on the other."""
    records = [record for record in run.steps if record.seconds]
    if not records:
        return None
    records = _thinned(records, 400)
    with drawing("optimiser step", "seconds a step") as (figure, axes):
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
        return svg(figure)


def throughput_curve(run: RunFiles) -> str | None:
    """Tokens a second of each stage while it works."""

    def _of(stage: str) -> Points:
        return _of_steps(run, lambda record: record.tokens_per_s.get(stage))

    stages = (("rollout", "rollout"), ("teacher", "score"), ("trainer", "learn"))
    return _lines("tokens/s", tuple((name, STAGES[stage], _of(name)) for name, stage in stages), zero=True)


def _by_modality(
    run: RunFiles, read: Callable[[ModalityStep], float | None], label: str, zero: bool = False
) -> str | None:
    return _lines(label, tuple((m, PAGE_OF[m], _signal(run, m, read)) for m in MODALITIES), zero)


def _signal(run: RunFiles, modality: str, read: Callable[[ModalityStep], V | None]) -> list[tuple[int, V]]:
    # A supervised method's steps lack what only sampled responses have; its probes hold it, at fewer steps.
    for records in (run.steps, run.probes):
        points = [
            (record.step, value)
            for record in records
            if (part := _part(record, modality)) is not None and (value := read(part)) is not None
        ]
        if points:
            return points
    return []


def _of_steps(run: RunFiles, read: Callable[[StepRecord], float | None]) -> Points:
    return [(record.step, value) for record in run.steps if (value := read(record)) is not None]


def _lines(label: str, curves: Sequence[tuple[str, str, Points]], zero: bool = False) -> str | None:
    found = [curve for curve in curves if curve[2]]
    if not found:
        return None
    with drawing("optimiser step", label) as (figure, axes):
        for name, colour, points in found:
            xs, ys = [step for step, _ in points], [value for _, value in points]
            many = len(points) >= SMOOTHED_FROM
            axes.plot(
                xs,
                ys,
                color=colour,
                linewidth=0.8 if many else 1.5,
                alpha=0.28 if many else 1.0,
                marker="o" if len(points) < FEW else None,
                markersize=3.5,
                label=None if many else name,
            )
            if many:
                axes.plot(xs, running_mean(ys), color=colour, linewidth=1.6, label=name)
        if zero:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if min(y for _, _, p in found for _, y in p) < 0 else 0.0)
        if any(name for name, _, _ in found):
            axes.legend(loc="best", fontsize=8)
        return svg(figure)


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


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _part(record: StepRecord | ProbeRecord, modality: str) -> ModalityStep | None:
    return record.speech if modality == "speech" else record.text


def _thinned(records: Sequence[StepRecord], most: int) -> list[StepRecord]:
    stride = max(1, -(-len(records) // most))
    return list(records[::stride])
