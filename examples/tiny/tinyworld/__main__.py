"""`python -m tinyworld {data|train|check}`: the command line of the tiny world."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from xopd.readable import use_readable_output

from . import paths

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The tiny world: data, models, and a check.")
console = Console()


@app.command()
def data(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = paths.DATA,
    seed: Annotated[int, typer.Option(help="Another seed makes other items.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that speak at once.")] = 2,
    train: Annotated[int, typer.Option(help="Training tasks.")] = 3000,
    dev: Annotated[int, typer.Option(help="Development tasks.")] = 300,
    test: Annotated[int, typer.Option(help="Test tasks.")] = 600,
    retention_dev: Annotated[int, typer.Option(help="Development items of the retention probe.")] = 100,
    retention_test: Annotated[int, typer.Option(help="Test items of the retention probe.")] = 300,
) -> None:
    """Speak the items: items.jsonl and audio/*.flac. Does nothing when the folder is already complete."""
    from .dataset import Sizes, build_data

    began = time.monotonic()
    made = build_data(out, Sizes(train, dev, test, retention_dev, retention_test), seed, workers)
    if made:
        console.print(f"made {out} in {time.monotonic() - began:.0f} s")
    else:
        console.print(f"{out} is complete already")


@app.command()
def train(
    stage: Annotated[str, typer.Option(help="all, corpus, tower, teacher, base or teacher-large.")] = "all",
    seed: Annotated[int, typer.Option(help="Seed of every stage.")] = 0,
    work: Annotated[Path, typer.Option(help="Folder of intermediate files.")] = paths.WORK,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = paths.CHECKPOINTS,
) -> None:
    """Make the checkpoints from seeds. Stages that are done are kept; remove their files to do them again."""
    from .recipe import run

    run(stage, seed, work, out)


@app.command()
def check(
    data_folder: Annotated[Path, typer.Option("--data", help="Folder made by `data`.")] = paths.DATA,
    checkpoints: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = paths.CHECKPOINTS,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = paths.CEILING,
) -> None:
    """Measure probe, teachers and base student on the test split and write the figures."""
    from .check import measure_all

    measure_all(data_folder, checkpoints, out, console)


def main() -> None:
    """Runs the command line; a foreseeable failure is one sentence, not a traceback."""
    use_readable_output()
    try:
        app()
    except (FileNotFoundError, ValueError, ModuleNotFoundError, RuntimeError) as error:
        Console(stderr=True).print(f"[red]tinyworld:[/red] {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
