"""The report of one run: its table of scores, and RUN/report.html."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xopd.files import write_whole
from xopd.report.records import ModelScores, RunFiles, Score, Summary, read_run
from xopd.report.style import STAGES, percent
from xopd.report.tables import Column, Number, Row, Table

COLUMNS = (
    Column("model", "", "text"),
    Column("speech", "Speech (%)", "number"),
    Column("text", "Text (%)", "number"),
    Column("retention", "Retention (%)", "number"),
    Column("drop_speech", "Drop speech (%)", "number"),
    Column("drop_text", "Drop text (%)", "number"),
)


def build_report(run_dir: str | Path) -> Path:
    """Write RUN/report.html, one file that opens without a network, and return its path.

    Works on a run that is still going, too: the page then shows the curves so far.

    Raises:
        UserError: if `run_dir` is no run.
    """
    from xopd.report.page import render

    run = read_run(run_dir)
    path = run.folder / "report.html"
    write_whole(path, render("run.html", **_shown(run)))
    return path


def scores_table(summary: Summary) -> Table:
    """Teacher, base and final by speech, text and retention with 95 % intervals, and the drop against the teacher."""
    top = summary.teacher.text
    rows = (
        Row("teacher", ("teacher, text", *_scores(summary.teacher), None, None), "teacher"),
        Row("base", ("base student", *_scores(summary.base), *_drops(top, summary.base)), "base"),
        Row("final", ("final student", *_scores(summary.final), *_drops(top, summary.final)), "reference"),
    )
    return Table(COLUMNS, rows, tuple(_incomplete(summary)))


def ceiling_of(summary: Summary) -> float | None:
    """The information ceiling, a share: what the frozen audio tower lets through; None where it was not measured."""
    bound = summary.bounds.get("information_ceiling")
    value = bound.get("accuracy") if isinstance(bound, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _shown(run: RunFiles) -> dict[str, Any]:
    """What the template reads."""
    from xopd.report.charts import run_charts

    events = {
        f"{datetime.fromtimestamp(event.time, UTC):%H:%M:%S}, step {event.step}": (
            f"{event.event.replace('_', ' ')} {event.detail}"
        )
        for event in run.events[-30:]
    }
    return {
        "name": (run.summary.run_name if run.summary else "") or run.folder.resolve().name,
        "summary": run.summary,
        "steps_done": run.steps[-1].step if run.steps else 0,
        "charts": run_charts(run),
        "probed": bool(run.probes),
        "events": events,
        "config_yaml": run.config_yaml,
        **(_outcome(run.summary) if run.summary is not None else {}),
    }


def _outcome(summary: Summary) -> dict[str, Any]:
    """What a finished run's page shows beside its curves."""
    from xopd.report.charts import gap_figure, svg
    from xopd.report.page import machine_line

    ceiling = ceiling_of(summary)
    figure = gap_figure(summary, ceiling)
    accounts = summary.trajectories
    made_with = {f"{name} engine": value for name, value in summary.engine.items()}
    made_with |= {"machine": machine_line(summary.machine)} if summary.machine else {}
    made_with |= {f"bound: {name.replace('_', ' ')}": _bound(value) for name, value in summary.bounds.items()}
    stages = {stage: summary.seconds.get(stage, 0.0) for stage in STAGES}
    rates = [(name, summary.throughput.get(f"{name}_tokens_per_s")) for name in ("rollout", "teacher", "trainer")]
    return {
        "table": scores_table(summary),
        "ceiling": ceiling,
        "gap_svg": "" if figure is None else svg(figure),
        "gains": {part: gain for part, gain in summary.paired.items() if gain is not None and gain.ci95 is not None},
        "stages": stages if any(stages.values()) else {},
        "rates": [(f"tokens/s, {name}", rate) for name, rate in rates if rate is not None],
        "accounts": [
            ("dispatched", accounts.dispatched),
            ("trained", accounts.trained),
            ("duplicates dropped", accounts.duplicates_dropped),
            ("stale dropped", accounts.stale_dropped),
            ("given up", accounts.given_up),
            ("lost", accounts.lost),
            ("largest policy lag (versions)", summary.policy_lag.get("max")),
        ],
        "made_with": made_with,
    }


def _scores(scores: ModelScores) -> tuple[Number | None, ...]:
    return tuple(
        None if score is None else Number(100 * score.accuracy, ci95=_percent(score.ci95), n=score.n)
        for score in (scores.speech, scores.text, scores.retention)
    )


def _drops(teacher: Score | None, scores: ModelScores) -> list[Number | None]:
    """Relative loss of speech and text against the text-only teacher (%)."""
    if teacher is None or not teacher.accuracy:
        return [None, None]
    top = teacher.accuracy
    return [None if s is None else Number(100 * (top - s.accuracy) / top) for s in (scores.speech, scores.text)]


def _percent(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _incomplete(summary: Summary) -> list[str]:
    """Sentences on what among the wrong answers is no answer: cut off at the longest length, or missing."""
    found = []
    models = {"teacher, text": summary.teacher, "base student": summary.base, "final student": summary.final}
    for model, scores in models.items():
        for what, field in (("cut off at evals.max_new_tokens", "cut"), ("missing", "unanswered")):
            parts = [
                f"{part} {getattr(score, field):,} of {score.n:,}"
                for part, score in scores
                if score is not None and getattr(score, field)
            ]
            if parts:
                found.append(f"{model}: {what}, and so wrong: {', '.join(parts)}.")
    return found


def _bound(bound: Any) -> str:
    if not isinstance(bound, Mapping) or not isinstance(bound.get("accuracy"), int | float):
        return str(bound)
    n = f" (n = {bound['n']:,})" if isinstance(bound.get("n"), int) else ""
    return percent(float(bound["accuracy"])) + n
