"""The report page: one self-contained HTML file, read from top to bottom like an article."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from typing import Any

from xopd.report import figures
from xopd.report.drawing import own_ids
from xopd.report.palette import STAGES
from xopd.report.records import Difference, RunFiles, Score, Summary
from xopd.report.scale import scale_svg
from xopd.report.style import CSS
from xopd.report.table import Row, incomplete, rows
from xopd.report.units import count, duration, percent

FIGURES: tuple[tuple[str, Callable[[RunFiles], str | None]], ...] = (
    ("Accuracy while training", figures.accuracy_curve),
    ("Distance to the teacher", figures.kl_curve),
    ("Advantage", figures.advantage_curve),
    ("Distance between speech and text", figures.modality_gap_curve),
    ("Agreement with the teacher: top tokens", figures.overlap_curve),
    ("Agreement with the teacher: probability", figures.teacher_mass_curve),
    ("Loss", figures.loss_curve),
    ("Likelihood of the targets", figures.nll_curve),
    ("Entropy of the policy", figures.entropy_curve),
    ("Response length", figures.length_curve),
    ("Truncated responses", figures.truncation_curve),
    ("Repetition", figures.repetition_curve),
    ("Gradient norm", figures.gradient_curve),
    ("Time of a step", figures.seconds_curve),
    ("Throughput", figures.throughput_curve),
)


def page(run: RunFiles) -> str:
    """The whole page."""
    name = (run.summary.run_name if run.summary else "") or run.folder.resolve().name
    parts = [_head(name, run), _figures(run)]
    if run.summary is not None:
        parts += [_time(run.summary), _accounts(run.summary), _made_with(run.summary)]
    parts += [_events(run), _config(run)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}: X-OPD report</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head>\n'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(name: str, run: RunFiles) -> str:
    summary = run.summary
    if summary is None:
        done = run.steps[-1].step if run.steps else 0
        return (
            f'<header><p class="name">X-OPD run <b>{escape(name)}</b></p><h1>Not finished: {done:,} steps so far</h1>'
            '<p class="lead">The scores on the test split come when the run is finished.</p></header>'
        )
    how = f"{summary.method}, seed {summary.seed}"
    if summary.lambda_ is not None:
        how = f"{summary.method}, λ = {summary.lambda_:g}, seed {summary.seed}"
    when = _date(summary.finished_at)
    line = " · ".join(part for part in (f"X-OPD run <b>{escape(name)}</b>", escape(how), when) if part)
    ceiling = _ceiling(summary)
    return (
        f'<header><p class="name">{line}</p><h1>{_headline(summary)}</h1>'
        f'<p class="lead">{_lead(summary, ceiling)}</p>{scale_svg(summary, ceiling)}</header>'
        f'<h2>Scores</h2><p class="note">Test split, greedy answers; below each figure its 95 % interval. <i>Drop</i>'
        " is the relative loss against the text-only teacher’s text score: lower is better.</p>"
        f"{_table(summary)}{_incomplete(summary)}{_gains(summary)}"
    )


def _headline(summary: Summary) -> str:
    base, final = summary.base.speech, summary.final.speech
    if base is None or final is None:
        return f"{summary.steps:,} steps"
    moved = f"{percent(base.accuracy)} → {percent(final.accuracy)}"
    if summary.gap_closed is None:
        return f'Asked by voice: <span class="speech">{moved}</span>'
    share = percent(summary.gap_closed, 0)
    return f'Asked by voice, <span class="speech">{moved}</span>: {share} of the gap to the text-only teacher is closed'


def _lead(summary: Summary, ceiling: float | None) -> str:
    why = summary.why_no_share()
    sentences = [f"{why[0].upper()}{why[1:]}."] if why else []
    speech = summary.paired.get("speech")
    if speech is not None:
        low_high = f", 95 % interval {_points_interval(speech)}" if speech.ci95 else ""
        sentences.append(
            f"Over the same test items that is {_points(speech.mean_difference)} points{low_high} (paired bootstrap)."
        )
    reference, final = summary.teacher.text, summary.final.speech
    if reference is not None and final is not None and summary.base.speech is not None:
        before, after = (100 * (reference.accuracy - s.accuracy) for s in (summary.base.speech, final))
        sentences.append(
            f"The teacher, who reads the text, answers {percent(reference.accuracy)}: the gap went from"
            f" {before:.1f} to {after:.1f} points."
        )
    if ceiling is not None:
        sentences.append(
            f"What the frozen audio tower lets through bounds every method at about {percent(ceiling)} (the information"
            " ceiling: a transcript of what it hears, answered by the teacher)."
        )
    sentences.append(f"{summary.steps:,} steps took {duration(summary.wall_s)}.")
    return " ".join(sentences)


def _table(summary: Summary) -> str:
    head = "".join(f'<th class="{part}">{part}</th>' for part in ("speech", "text", "retention"))
    body = "".join(_table_row(row) for row in rows(summary))
    return f"<table><tr><th></th>{head}<th>drop, speech</th><th>drop, text</th></tr>{body}</table>"


def _incomplete(summary: Summary) -> str:
    return "".join(f'<p class="note">{escape(sentence)}</p>' for sentence in incomplete(summary))


def _table_row(row: Row) -> str:
    cells = "".join(_score_cell(s) for s in (row.scores.speech, row.scores.text, row.scores.retention))
    drops = "".join(f"<td>{'–' if d is None else f'{d:.1f} %'}</td>" for d in (row.drop_speech, row.drop_text))
    kind = ' class="final"' if row.name.startswith("final") else ""
    return f"<tr{kind}><td>{escape(row.name)}</td>{cells}{drops}</tr>"


def _score_cell(score: Score | None) -> str:
    if score is None:
        return "<td>–</td>"
    interval = f"{100 * score.ci95[0]:.1f} to {100 * score.ci95[1]:.1f}, n = {score.n:,}" if score.ci95 else ""
    return f"<td>{percent(score.accuracy)}<small>{interval}</small></td>"


def _gains(summary: Summary) -> str:
    gains = [
        f'<span class="{part}">{part}</span> {_points(difference.mean_difference)} [{_points_interval(difference)}]'
        for part in ("speech", "text", "retention")
        if (difference := summary.paired.get(part)) is not None and difference.ci95 is not None
    ]
    if not gains:
        return ""
    return f'<p class="note" style="margin-top:12px">Final minus base, in points, paired: {"; ".join(gains)}.</p>'


def _figures(run: RunFiles) -> str:
    drawn = [(title, svg) for title, draw in FIGURES if (svg := draw(run)) is not None]
    if not drawn:
        return ""
    cells = "".join(
        f"<figure><h3>{escape(title)}</h3>{own_ids(svg, f'f{i}')}</figure>" for i, (title, svg) in enumerate(drawn)
    )
    note = (
        "Speech is orange, text is blue: the form of the question that the responses were sampled from. Thin lines are"
        " single steps, thick ones a running mean over nine."
    )
    if run.probes:
        note += (
            " Curves with marks are probes: responses to dev items at temperature 1, for what the steps themselves do"
            " not measure."
        )
    return f'<h2>How it went</h2><p class="note">{note}</p><div class="figures">{cells}</div>'


def _time(summary: Summary) -> str:
    seconds = {stage: summary.seconds.get(stage, 0.0) for stage in STAGES}
    total = sum(seconds.values())
    if not total:
        return ""
    bar = "".join(
        f'<div style="width:{100 * s / total:.2f}%;background:{STAGES[stage]}"></div>' for stage, s in seconds.items()
    )
    legend = "".join(
        f'<span><i style="background:{STAGES[stage]}"></i>{stage} {duration(s)}, {percent(s / total, 0)}</span>'
        for stage, s in seconds.items()
    )
    rates = "".join(
        f"<div><b>{count(summary.throughput[key])}</b><span>tokens/s, {label}</span></div>"
        for key, label in (
            ("rollout_tokens_per_s", "rollout"),
            ("teacher_tokens_per_s", "teacher"),
            ("trainer_tokens_per_s", "trainer"),
        )
        if summary.throughput.get(key) is not None
    )
    note = (
        f"Training steps took {duration(total)} of {duration(summary.wall_s)}; the rest is starting, evaluating and"
        " writing checkpoints."
    )
    return (
        f'<h2>Where the time went</h2><p class="note">{note}</p><div class="stagebar">{bar}</div>'
        f'<p class="legend">{legend}</p><div class="facts">{rates}</div>'
    )


def _accounts(summary: Summary) -> str:
    accounts = summary.trajectories
    facts = (
        (accounts.dispatched, "dispatched"),
        (accounts.trained, "trained"),
        (accounts.duplicates_dropped, "duplicates dropped"),
        (accounts.stale_dropped, "stale dropped"),
        (accounts.given_up, "given up"),
        (accounts.lost, "lost"),
        (summary.policy_lag.get("max"), "largest policy lag (versions)"),
    )
    cells = "".join(f"<div><b>{count(number)}</b><span>{label}</span></div>" for number, label in facts)
    return f'<h2>Accounts</h2><p class="note">What became of every trajectory.</p><div class="facts">{cells}</div>'


def _made_with(summary: Summary) -> str:
    facts = {f"{name} engine": value for name, value in summary.engine.items()}
    machine = summary.machine
    if machine:
        facts["machine"] = (
            f"{machine.get('cpus', '?')} CPUs, {machine.get('memory_gb', '?')} GB, {machine.get('platform', '')}"
        )
    for name, bound in summary.bounds.items():
        facts[f"bound: {name.replace('_', ' ')}"] = _bound(bound)
    return f"<h2>Made with</h2><dl>{_definitions(facts)}</dl>"


def _events(run: RunFiles) -> str:
    if not run.events:
        return ""
    facts = {}
    for event in run.events[-30:]:
        when = f"{datetime.fromtimestamp(event.time, UTC):%H:%M:%S}, step {event.step}"
        facts[when] = f"{event.event.replace('_', ' ')} {event.detail}"
    return f"<h2>Events</h2><dl>{_definitions(facts)}</dl>"


def _config(run: RunFiles) -> str:
    if not run.config_yaml:
        return ""
    return f"<details><summary>The resolved configuration</summary><pre>{escape(run.config_yaml)}</pre></details>"


def _definitions(facts: dict[str, Any]) -> str:
    return "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())


def _ceiling(summary: Summary) -> float | None:
    bound = summary.bounds.get("information_ceiling")
    value = bound.get("accuracy") if isinstance(bound, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _bound(bound: Any) -> str:
    if isinstance(bound, dict) and isinstance(bound.get("accuracy"), int | float):
        n = f" (n = {bound['n']:,})" if isinstance(bound.get("n"), int) else ""
        return percent(float(bound["accuracy"])) + n
    return str(bound)


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _points_interval(difference: Difference) -> str:
    low, high = difference.ci95 or (difference.mean_difference, difference.mean_difference)
    return f"{_points(low)} to {_points(high)}"


def _date(value: float | str | None) -> str:
    if isinstance(value, int | float):
        return f"{datetime.fromtimestamp(value, UTC):%d %B %Y, %H:%M} UTC"
    return escape(value or "")
