"""One call of `xopd compare`, from the first process to the printed tables."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import time
from collections.abc import Sequence

import typer
from rich.console import Console

from xopd.comparison.cells import MANIFEST, Progress, write_manifest
from xopd.comparison.matrix import Matrix
from xopd.comparison.search import choose_rates, read_search
from xopd.comparison.session import ComparisonSession
from xopd.comparison.view import make_view
from xopd.errors import UserError
from xopd.local.stopping import Stop
from xopd.report.palette import QUIET
from xopd.report.units import duration
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
    view = make_view(console, matrix.folder.name, cells, matrix.file.jobs, plain)
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
    write_manifest(matrix, {"search": search, "machine": describe_machine(), "wall_s": wall_s, "command": command})
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
    from rich.table import Table

    path = choose_rates(matrix, cells, command)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("entry", "learning rate", "speech", "text", "retention", ""):
        table.add_column(heading, justify="right" if heading not in ("entry", "") else "left")
    for trial in json.loads(path.read_text(encoding="utf-8"))["trials"]:
        scores = [f"{100 * trial['dev'][part]:.1f} %" for part in ("speech", "text", "retention")]
        table.add_row(trial["entry"], f"{trial['learning_rate']:g}", *scores, "chosen" if trial["chosen"] else "")
    console.print(table)
    console.print(f"  results  {path}", style=QUIET, soft_wrap=True)


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
    write_manifest(matrix, {"wall_s": _wall_time(matrix) + seconds})
