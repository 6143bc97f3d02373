"""`xopd compare`: several methods and seeds on equal data and budget, and the paper's tables from them."""

from __future__ import annotations

from typing import Annotated

import typer

from xopd.cli.show import PlainOption, SetOption, StartTimeoutOption

HELP = "Run several methods and seeds on equal data and budget, and write the paper's tables and a report."


def compare(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file of the comparison.")],
    set_: SetOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="The file's short form: fewer entries, seeds, steps.")] = False,
    search: Annotated[
        bool, typer.Option("--search", help="Choose each entry's learning rate first, with the same budget for each.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove an earlier comparison of this name.")] = False,
    directory: Annotated[
        str | None, typer.Option("--directory", metavar="FOLDER", help="In place of the file's `directory`.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Runs at the same time.")] = None,
    plain: PlainOption = False,
    start_timeout: StartTimeoutOption = 600.0,
) -> None:
    """Run what is not finished yet; the same command continues a comparison that was stopped."""
    import asyncio
    from pathlib import Path

    from rich.console import Console

    from xopd.checks.run import Checks
    from xopd.comparison.cells import open_folder, refuse_other_items
    from xopd.comparison.matrix import plan_matrix, plan_search, read_comparison_file
    from xopd.comparison.run import command_line, finish_comparison, finish_search, run_cells
    from xopd.families.hub import Checkpoints
    from xopd.local.fetching import fetch_checkpoints
    from xopd.local.rundir import RunFolder, locked

    console = Console(highlight=False)
    path = Path(config)
    file = read_comparison_file(path)
    if jobs is not None:
        file = file.model_copy(update={"jobs": jobs})
    if search:
        matrix = plan_search(file, path, set_ or (), directory)
    else:
        matrix = plan_matrix(file, path, set_ or (), quick, directory)
    warnings: dict[str, None] = {}
    checkpoints = Checkpoints()
    for cell in {cell.entry.name: cell for cell in matrix.cells}.values():
        checks = Checks(cell.config, checkpoints)
        warnings |= dict.fromkeys(checks.run_quick())
    for warning in warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    fetch_checkpoints(console, checkpoints, [cell.config for cell in matrix.cells], plain)
    matrix = matrix.located(checkpoints)
    command = command_line(config, set_ or (), quick, search, directory, jobs)
    with locked(RunFolder(matrix.folder)):
        cells = open_folder(matrix, overwrite)
        refuse_other_items(cells, checks.items)
        asyncio.run(run_cells(console, matrix, cells, plain, start_timeout, command))
        if search:
            finish_search(console, matrix, cells, command)
        else:
            finish_comparison(console, matrix, cells, command)
