"""`xopd scale`: more and fewer pods of a run that `xopd up` has under way on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xopd.errors import UserError

HELP = "Add or remove pods of a run while `xopd up` runs it on this machine."
ROLES = ("rollout", "teacher")


def scale(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run, such as runs/NAME.")],
    wanted: Annotated[list[str], typer.Argument(metavar="ROLE=N...", help="rollout=N, teacher=N, or both.")],
) -> None:
    """Say how many pods there shall be; they come and go while the run goes on."""
    from xopd.config import load_config
    from xopd.local.rundir import RunFolder
    from xopd.local.scaling import ask_for

    numbers = dict(_number(word) for word in wanted)
    folder = RunFolder(run)
    if "teacher" in numbers and load_config(folder.config).teacher.endpoints:
        raise UserError(f"{run}: its teachers run elsewhere (teacher.endpoints); scale them there.")
    asked = ask_for(folder, numbers)
    typer.echo("Asked for " + ", ".join(f"{number} {role}" for role, number in asked.items()) + " pods.")
    typer.echo(f"Watch them come and go with: xopd status {run} --watch")


def _number(word: str) -> tuple[str, int]:
    from xopd.local.scaling import MOST

    role, _, number = word.partition("=")
    if role not in ROLES or not number.isdecimal() or not 1 <= int(number) <= MOST:
        raise UserError(f"xopd scale: {word!r} is not ROLE=N with ROLE rollout or teacher and N from 1 to {MOST}.")
    return role, int(number)
