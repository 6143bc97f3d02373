"""`xopd data stats`: what a manifest holds, and which of its clips a run would refuse."""

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
def stats(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="An items.jsonl.")],
    clips: Annotated[
        bool, typer.Option("--clips", help="Read every clip, and name those that a run would refuse.")
    ] = False,
    root: Annotated[
        list[str] | None,
        typer.Option(help="Folder or URI below which clips may lie (data.audio_roots); by default the manifest's."),
    ] = None,
    max_seconds: Annotated[float, typer.Option(help="Longest clip (data.max_audio_seconds).")] = 30.0,
    student: Annotated[
        str | None, typer.Option(help="Checkpoint (student.path) whose audio tower shall hear each clip to its end.")
    ] = None,
) -> None:
    """Print one row a split and kind; with `--clips` also the bad ones, and then fail if there are any."""
    from pydantic import ValidationError
    from rich.console import Console
    from rich.table import Table

    from xopd.checks.clips import bad_clips
    from xopd.config.schema import DataSettings
    from xopd.config.section import first_message
    from xopd.data import load_items
    from xopd.data.audio import AudioRules
    from xopd.errors import UserError
    from xopd.report.style import count, duration

    schemes = sorted({"file", *(place.partition("://")[0] for place in root or () if "://" in place)})
    try:
        settings = DataSettings.model_validate(
            {
                "manifest": str(manifest),
                "audio_roots": root or [],
                "uri_schemes": schemes,
                "max_audio_seconds": max_seconds,
            }
        )
    except ValidationError as error:
        raise UserError(f"xopd data stats: {first_message(error)}.") from None
    family = None
    if student is not None:
        from xopd.families import open_family
        from xopd.families.hub import resolve_checkpoint

        family = open_family(str(resolve_checkpoint("student.path", student, weights=False)))
    rules = AudioRules.of(settings, family)
    items = load_items(manifest, rules.places)
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
    console = Console(highlight=False)
    console.print(table)
    if clips:
        bad = 0
        for item, fault in bad_clips(items, rules):
            bad += 1
            console.print(f"item {item.id}: {fault}", markup=False, soft_wrap=True)
        if bad:
            raise UserError(f"{manifest}: {bad} of {len(items)} clips would be refused; take those items out.")
        console.print(f"all {len(items):,} clips can be used")
