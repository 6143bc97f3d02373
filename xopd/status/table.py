"""The fleet of a run as tables, for a terminal of 80 columns or more, once or again and again."""

from __future__ import annotations

import asyncio
import json
import sys

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from xopd.config.redis import RedisSettings
from xopd.errors import UserError
from xopd.report.style import QUIET, count, duration, percent
from xopd.status.model import PodStatus, RunStatus
from xopd.status.read import SILENT_S, FleetReader, FleetState

WIDE = 110
"""From so many columns on there is room for the busy share, the engines and the calls."""
PHASES_WITHOUT_STEP = frozenset({"starting", "teacher_test", "teacher_eval", "base_eval", "preparing"})


EVERY_S = 2.0
"""Seconds between two readings."""


async def show(console: Console, settings: RedisSettings, watch: bool, as_json: bool) -> None:
    """Print the fleet once or, with `watch`, until cancelled: on a terminal in place, elsewhere one below the other.

    Raises:
        UserError: if the first reading fails; on a terminal a later one that fails is shown.
    """
    async with FleetReader(settings) as reader:
        state = await reader.read()
        if watch and console.is_terminal and not as_json:
            await _show_in_place(console, reader, state)
        while True:
            if as_json:
                sys.stdout.write(json.dumps(state.as_json()) + "\n")
                sys.stdout.flush()
            else:
                console.print(render_fleet(state, console.width))
            if not watch:
                return
            await asyncio.sleep(EVERY_S)
            state = await reader.read()


async def _show_in_place(console: Console, reader: FleetReader, state: FleetState) -> None:
    problem = ""
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            parts = [render_fleet(state, console.width)]
            if problem:
                parts += ["", Text(f"Not up to date: {problem}", style="red")]
            live.update(Group(*parts), refresh=True)
            await asyncio.sleep(EVERY_S)
            try:
                state, problem = await reader.read(), ""
            except UserError as error:
                problem = str(error)


def render_fleet(state: FleetState, width: int) -> RenderableType:
    """Everything of one reading, at most `width` columns wide."""
    parts: list[RenderableType] = [_summary(state), "", _pods(state, width)]
    if state.trainer is not None:
        parts += ["", _teachers(state.trainer, width)]
    sentences = state.sentences()
    if sentences:
        parts += ["", *(Text(sentence, style="yellow") for sentence in sentences)]
    return Group(*parts)


def _summary(state: FleetState) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style=QUIET, no_wrap=True)
    grid.add_column(overflow="fold")
    run, trainer = state.run, state.trainer
    if run is not None:
        grid.add_row("run", Text.assemble((run.run_name, "bold"), "  ", _doing(state)))
        grid.add_row("student", f"{run.student}, begun {duration(state.age(run.started_at))} ago")
    weights = f"v{state.newest_version} is the newest" if state.newest_version >= 0 else "none published"
    heard = f", the trainer was heard {duration(state.age(trainer.beat_at))} ago" if trainer is not None else ""
    grid.add_row("weights", weights + heard)
    grid.add_row(
        "queues",
        f"prompts unanswered {count(state.prompts)} (claimed {count(state.claimed)}), answers kept until a checkpoint"
        f" {count(state.trajectories)}, dead letters {count(state.dead)}",
    )
    if trainer is not None:
        accounts = trainer.accounts
        grid.add_row(
            "accounts",
            f"{count(accounts.dispatched)} trajectories dispatched, {count(accounts.trained)} trained,"
            f" {count(accounts.given_up)} given up, {count(accounts.lost)} lost",
        )
    grid.add_row("redis", f"{state.redis}, prefix {state.prefix}")
    return grid


def _doing(state: FleetState) -> str:
    run, trainer = state.run, state.trainer
    if run is not None and run.finished:
        return "finished"
    if trainer is None:
        return "the trainer is silent"
    words = [trainer.doing]
    if trainer.phase not in PHASES_WITHOUT_STEP:
        words.append(f"step {count(trainer.step)} of {count(trainer.steps)}")
    if trainer.progress is not None and trainer.progress.total:
        words.append(f"{count(trainer.progress.done)} of {count(trainer.progress.total)} done")
    if trainer.eta_s is not None and trainer.step < trainer.steps:
        words.append(f"{duration(trainer.eta_s)} left")
    return ", ".join(words)


def _pods(state: FleetState, width: int) -> RenderableType:
    if not state.pods:
        return Text("rollout pods: none", style="bold")
    wide = width >= WIDE
    table = _table("rollout pod", width)
    headings = ["weights", "groups", "tokens/s", *(["busy"] if wide else []), "sync", "idle", "heard"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    if wide:
        table.add_column("engine", no_wrap=True, overflow="ellipsis", style=QUIET)
        table.add_column("address", no_wrap=True, overflow="ellipsis", style=QUIET)
    for pod in state.pods:
        lately = pod.recent
        shares = [lately.busy_seconds, lately.sync_seconds, lately.idle_seconds][0 if wide else 1 :]
        shown = [percent(share / lately.seconds, 0) if lately.seconds else "–" for share in shares]
        table.add_row(
            pod.pod_id,
            f"v{pod.policy_version}" if pod.policy_version >= 0 else "–",
            str(pod.in_flight),
            count(lately.generated_tokens / lately.seconds) if lately.seconds else "–",
            *shown,
            duration(pod.beat_age_s),
            _state_of(pod),
            *([f"{pod.engine} {pod.engine_version}", pod.url.removeprefix("http://")] if wide else []),
        )
    return table


def _state_of(pod: PodStatus) -> Text:
    if pod.beat_age_s > SILENT_S:
        return Text("silent", style="red")
    if pod.draining:
        return Text("draining", style="yellow")
    if pod.policy_version < 0:
        return Text("new", style="yellow")
    return Text("working" if pod.in_flight else "waiting", style="green")


def _teachers(trainer: RunStatus, width: int) -> RenderableType:
    if not trainer.teachers:
        return Text("teacher pods: none has been found", style="bold")
    wide = width >= WIDE
    table = _table("teacher pod", width)
    for heading in ["calls now", "tokens/s", "scored", *(["calls", "failures"] if wide else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("model", no_wrap=True, overflow="ellipsis", style=QUIET)
    for teacher in trainer.teachers:
        table.add_row(
            teacher.endpoint,
            str(teacher.in_flight),
            count(teacher.tokens_per_second),
            count(teacher.scored_tokens),
            *([count(teacher.calls), count(teacher.failures)] if wide else []),
            Text("answers", style="green") if teacher.ok else Text("out", style="red"),
            ", ".join(part for part in (teacher.model, teacher.engine) if part),
        )
    return table


def _table(first: str, width: int) -> Table:
    table = Table(box=None, padding=(0, 2 if width >= WIDE else 1, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True, overflow="ellipsis", min_width=12)
    return table
