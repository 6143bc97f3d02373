"""`xopd audit RUN`: does every dispatched group have exactly one outcome?"""

from __future__ import annotations

from typing import Annotated

import typer

HELP = "Prove from a run's ledger that nothing was lost and nothing trained twice."


def audit(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of the run, such as runs/NAME.")],
    json_: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Exit status: 0 if the books are in order, 1 if they are not, 2 if there are none."""
    from pathlib import Path

    from rich.console import Console

    from xopd.ledger.audit import audit_run

    found = audit_run(Path(run))
    console = Console(highlight=False)
    if json_:
        console.print_json(data=found.as_json())
    else:
        from xopd.chaos.books import print_audit

        print_audit(console, run, found)
    raise typer.Exit(0 if found.closes else 1)
