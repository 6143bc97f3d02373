"""`xopd report`: build report.html of a run again, and print its table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = "Build RUN/report.html and print the run's table."


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/NAME.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")] = False,
) -> None:
    """Build the page; a run without summary.json yet is shown as far as it is."""
    from rich.console import Console

    from xopd.local.finish import print_summary
    from xopd.report.records import read_summary
    from xopd.report.run import build_report, scores_table
    from xopd.report.tables import markdown as markdown_of

    page = build_report(run)
    console = Console(highlight=False)
    summary = run / "summary.json"
    if summary.exists() and markdown:
        console.print(markdown_of(scores_table(read_summary(summary))), markup=False, soft_wrap=True)
    elif summary.exists():
        print_summary(console, read_summary(summary))
    else:
        console.print("The run is not finished: the page shows it as far as it is.")
    console.print(f"report: {page}", soft_wrap=True)
