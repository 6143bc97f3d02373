"""How the command line speaks: figures with units, and failures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from xopd.errors import UserError

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override one setting; may be repeated.", show_default=False),
]

PlainOption = Annotated[bool, typer.Option("--plain", help="Plain lines, no live view (also without a terminal).")]
StartTimeoutOption = Annotated[
    float, typer.Option("--start-timeout", metavar="SECONDS", min=1, help="Longest wait for a service to be ready.")
]


def print_failure(error: UserError) -> None:
    """One sentence on standard error; the end of a log below it where the error brings one."""
    sys.stderr.write(f"xopd: {error}\n")
    tail: Sequence[str] = getattr(error, "tail", ())
    for line in tail:
        sys.stderr.write(f"  | {line[:400]}\n")
