"""One call of `xopd compare`, from the first process to the printed tables."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from xopd.comparison.cells import MANIFEST, Progress, write_manifest
from xopd.comparison.matrix import Matrix, read_search
from xopd.comparison.session import ComparisonSession
from xopd.comparison.view import ComparisonView
from xopd.errors import UserError
from xopd.files import write_whole
from xopd.local.stopping import Stop
from xopd.report.comparison.read import PARTS, DevScores, Search, Trial
from xopd.report.records import read_summary
from xopd.report.style import QUIET, duration
from xopd.service.machine import describe_machine


def command_line(
    config: str, overrides: Sequence[str], quick: bool, search: bool, directory: str | None, jobs: int | None
) -> str:
    """The command that does the same again."""
    parts = ["xopd", "compare", shlex.quote(config)]
    parts += [part for override in overrides for part in ("--set", shlex.quote(override))]
    parts += [name for name, given in (("--quick", quick), ("--search", search)) if given]
    parts += ["--directory", shlex.quote(directory)] if directory else []
    parts += ["--jobs", str(jobs)] if jobs else []
    return " ".join(parts)


async def run_cells(
    console: Console, matrix: Matrix, cells: list[Progress], plain: bool, start_timeout_s: float, command: str
) -> None:
    """Run what is waiting; returns when all have ended.

    Raises:
        UserError: if a service cannot be had, or a run failed.
        typer.Exit: if a signal stopped it.
    """
    if all(cell.state == "finished" for cell in cells):
        return
    view = ComparisonView(console, matrix.folder.name, cells, matrix.file.jobs, plain)
    stop = Stop()
    session = ComparisonSession(matrix, cells, view.event, start_timeout_s, stop)
    stop.catch_signals(session.supervisor, view.event, "the trainers write checkpoints first")
    showing, began = asyncio.create_task(view.show()), time.monotonic()
    try:
        await session.run()
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
        _add_wall_time(matrix, time.monotonic() - began)
    problem = _problem_of(cells)
    if stop.asked.is_set():
        done = sum(cell.state == "finished" for cell in cells)
        console.print(f"Stopped with {done} of {len(cells)} runs finished.")
        console.print(f"Continue with: [bold]{command}[/bold]", soft_wrap=True)
        raise typer.Exit(128 + stop.signal)
    if problem is not None:
        raise problem


def finish_comparison(console: Console, matrix: Matrix, cells: list[Progress], command: str) -> None:
    """Write tables and report, and print the tables."""
    from xopd.report.comparison.build import build_comparison
    from xopd.report.tables import rich_table

    wall_s = _wall_time(matrix)
    search = read_search(matrix.file, matrix.path)
    write_manifest(matrix, search=search, machine=describe_machine(), wall_s=wall_s, command=command)
    built = build_comparison(matrix.folder)
    for table in built.tables:
        console.print()
        console.print(rich_table(table))
    console.print()
    console.print(built.verdict)
    console.print()
    console.print(f"{len(cells)} runs in {duration(wall_s)}")
    console.print(f"  tables   {matrix.folder}/tables.md", style=QUIET, soft_wrap=True)
    console.print(f"  report   {built.report}", style=QUIET, soft_wrap=True)


def finish_search(console: Console, matrix: Matrix, cells: list[Progress], command: str) -> None:
    """Write what was chosen, and print it."""
    from xopd.report.tables import Column, Number, Row, Table, rich_table

    search, path = choose_rates(matrix, cells, command)
    columns = [Column("entry", "entry", "text"), Column("rate", "learning rate", "text")]
    columns += [Column(part, f"{part} (%)", "number") for part in PARTS]
    columns.append(Column("chosen", "", "text"))
    rows = []
    for trial in search.trials:
        scores = (None if score is None else Number(100 * score) for _, score in trial.dev)
        values = (trial.entry, f"{trial.learning_rate:g}", *scores, "chosen" if trial.chosen else "")
        rows.append(Row(trial.entry, values, "reference" if trial.chosen else "entry"))
    console.print(rich_table(Table(tuple(columns), tuple(rows))))
    console.print(f"  results  {path}", style=QUIET, soft_wrap=True)


def choose_rates(matrix: Matrix, cells: list[Progress], command: str) -> tuple[Search, Path]:
    """From the runs of a search to one learning rate an entry: the best mean of the three dev scores.

    Returns what was found, and the file beside the comparison's that now holds it.
    """
    search = matrix.file.search
    assert search is not None
    trials = [_trial(cell) for cell in cells]
    for entry in {trial.entry for trial in trials}:
        of_entry = [trial for trial in trials if trial.entry == entry]
        max(of_entry, key=lambda trial: sum(score or 0.0 for _, score in trial.dev)).chosen = True
    rates = ", ".join(f"{rate:g}" for rate in search.learning_rates)
    about = (
        f"The same budget for each method: learning rates {rates}, one run each with seed {search.seed} and"
        f" {matrix.shared.run.steps} steps, judged on the split {matrix.shared.data.eval_split!r} by the mean of the"
        " accuracies by speech, by text and on the retention probe. No other setting was searched."
    )
    found = Search(about=about, command=command, trials=trials)
    path = matrix.path.parent / search.results
    write_whole(path, found.model_dump_json(indent=1) + "\n")
    return found, path


def _trial(progress: Progress) -> Trial:
    final = read_summary(progress.folder.summary).final
    rate = progress.cell.config.optimiser.learning_rate
    dev = DevScores(**{part: score.accuracy for part, score in final if score is not None})
    return Trial(entry=progress.cell.entry.name.removesuffix(f"-{rate:g}"), learning_rate=rate, dev=dev)


def _problem_of(cells: Sequence[Progress]) -> UserError | None:
    failed = [cell for cell in cells if cell.state == "failed"]
    if not failed:
        return None
    more = f" ({len(failed) - 1} more failed)" if len(failed) > 1 else ""
    return UserError(f"{failed[0].cell.name} failed: {failed[0].problem.rstrip('.')}{more}.")


def _wall_time(matrix: Matrix) -> float:
    try:
        return float(json.loads((matrix.folder / MANIFEST).read_text(encoding="utf-8"))["wall_s"])
    except (OSError, ValueError, KeyError):
        return 0.0


def _add_wall_time(matrix: Matrix, seconds: float) -> None:
    # Kept over several lives, so that the report's figure is that of the whole comparison.
    write_manifest(matrix, wall_s=_wall_time(matrix) + seconds)
