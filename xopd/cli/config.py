"""`xopd config reference`: the reference of all settings."""

from __future__ import annotations

import sys

import typer

app = typer.Typer(help="Look at settings.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `reference` a command of its own."""


@app.command("reference", help="Print docs/CONFIG.md, generated from the schema.")
def reference() -> None:
    """Write Markdown to standard output."""
    from xopd.config.reference import reference_page

    sys.stdout.write(reference_page())
