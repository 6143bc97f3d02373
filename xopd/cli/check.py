"""`xopd check`: everything that can be checked without starting a run."""

from __future__ import annotations

from typing import Annotated

import typer

from xopd.cli.show import SetOption

HELP = "Check a configuration, its data, checkpoints, vocabularies and endpoints, without starting anything."


def check(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML configuration of the run.")],
    set_: SetOption = None,
) -> None:
    """Print a row a check; fail with the first mistake as one sentence."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from xopd.checks.run import Checks
    from xopd.config import load_config

    settings = load_config(config, set_ or ())
    console = Console(highlight=False)
    checks = Checks(settings)
    with console.status("checking"):
        findings = checks.run()
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    marks = {
        "ok": Text("✓", style="green"),
        "failed": Text("✕", style="red"),
        "warning": Text("!", style="yellow"),
        "left out": Text("–", style="bright_black"),
    }
    table.add_row(marks["ok"], "configuration", config)
    for finding in findings:
        table.add_row(marks[finding.outcome], finding.name, Text(finding.detail))
    console.print(table)
    first = next((finding.error for finding in findings if finding.error is not None), None)
    if first is not None:
        raise first
    console.print("All is well: start it with " + f"`xopd up {config}`.", markup=False)
