"""`xopd data stats`: what a manifest holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at datasets.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `stats` a command of its own."""


@app.command("stats", help="Count a manifest's items by split and kind, and the seconds of audio.")
def stats(manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="An items.jsonl.")]) -> None:
    """Print one row a split and kind."""
    from rich.console import Console
    from rich.table import Table

    from xopd.cli.show import count, duration
    from xopd.data import load_items

    items = load_items(manifest)
    counts = Counter((item.split, item.kind, item.family) for item in items)
    seconds: Counter[tuple[str, str, str]] = Counter()
    longest: dict[tuple[str, str, str], float] = {}
    for item in items:
        key = (item.split, item.kind, item.family)
        seconds[key] += item.audio.seconds  # type: ignore[assignment]  # Counter adds floats as well
        longest[key] = max(longest.get(key, 0.0), item.audio.seconds)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading, justify in (
        ("split", ""),
        ("kind", ""),
        ("family", ""),
        ("items", "r"),
        ("audio", "r"),
        ("longest", "r"),
    ):
        table.add_column(heading, justify="right" if justify else "left", no_wrap=True)
    for key in sorted(counts):
        table.add_row(*key, count(counts[key]), duration(seconds[key]), duration(longest[key]))
    table.add_section()
    table.add_row("all", "", "", count(len(items)), duration(sum(seconds.values())), duration(max(longest.values())))
    Console(highlight=False).print(table)
