"""What `xopd up` prints at the end: the table, where the time went, the accounts, and where everything lies."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xopd.local.rundir import RunFolder
from xopd.report.records import Seconds, Summary, read_summary
from xopd.report.run import build_report, scores_table
from xopd.report.style import QUIET, STAGES, count, duration, percent
from xopd.report.tables import rich_table

BAR = 24
"""Widest bar of the time table (characters)."""


def print_finished(console: Console, folder: RunFolder) -> None:
    """Build the report and print the outcome of a finished run."""
    summary = read_summary(folder.summary)
    report = build_report(folder.path)
    console.print()
    print_summary(console, summary)
    console.print(f"  summary  {folder.summary}", style=QUIET, soft_wrap=True)
    console.print(f"  report   {report}", style=QUIET, soft_wrap=True)


def print_summary(console: Console, summary: Summary) -> None:
    """The headline, the table, the time and the accounts."""
    console.print(headline(summary))
    console.print()
    table = scores_table(summary)
    console.print(rich_table(table))
    for sentence in table.notes:
        console.print(sentence, style="yellow")
    if summary.seconds:
        console.print()
        console.print(time_table(summary.seconds, summary.wall_s))
    console.print()
    console.print(accounts_table(summary))
    console.print()


def headline(summary: Summary) -> Text:
    """What the run achieved, in one or two sentences."""
    text = Text(f"{summary.run_name or 'run'}: {summary.steps:,} steps in {duration(summary.wall_s)}. ", style="bold")
    if summary.base.speech and summary.final.speech:
        text.append(
            f"Asked by voice {percent(summary.base.speech.accuracy)} → {percent(summary.final.speech.accuracy)}"
        )
        if summary.gap_closed is not None:
            text.append(f"; {percent(summary.gap_closed, 0)} of the gap to the text-only teacher is closed")
        elif why := summary.why_no_share():
            text.append(f"; {why}")
        text.append(".")
    return text


def time_table(seconds: Seconds, wall_s: float) -> Table:
    """Where the time went, a bar a stage."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("where the time went", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    spent = {stage: seconds[stage] for stage in STAGES if stage in seconds}
    whole = max(wall_s, sum(spent.values())) or 1.0
    spent["starting, evaluating, checkpoints"] = whole - sum(spent.values())
    longest = max(spent.values()) or 1.0
    for stage, value in spent.items():
        bar = "█" * round(BAR * value / longest) or "▏"
        table.add_row(stage, duration(value), percent(value / whole, 0), Text(bar, style=STAGES.get(stage, QUIET)))
    return table


def accounts_table(summary: Summary) -> Table:
    """What became of every trajectory."""
    accounts = summary.trajectories
    columns = {
        "dispatched": accounts.dispatched,
        "trained": accounts.trained,
        "given up": accounts.given_up,
        "duplicates": accounts.duplicates_dropped,
        "stale": accounts.stale_dropped,
        "lost": accounts.lost,
    }
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("trajectories", no_wrap=True)
    for heading in columns:
        table.add_column(
            heading, justify="right", no_wrap=True, style="red" if heading == "lost" and accounts.lost else ""
        )
    table.add_row("", *map(count, columns.values()))
    return table


def resume_command(config: str, overrides: Sequence[str], folder: RunFolder) -> str | None:
    """The command that continues the run, or None where there is nothing to continue."""
    if not folder.metrics.exists() and not any(folder.checkpoints.glob("*")):
        return None
    sets = " ".join(f"--set {shlex.quote(override)}" for override in overrides)
    return " ".join(part for part in ("xopd up", shlex.quote(config), sets, "--resume") if part)


def print_resume(console: Console, command: str | None, folder: RunFolder) -> None:
    """Say how to go on."""
    if command is not None:
        console.print(f"Resume with: [bold]{command}[/bold]", soft_wrap=True)
    console.print(f"  logs     {folder.logs}", style=QUIET, soft_wrap=True)
