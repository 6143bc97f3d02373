"""The options that every service's command line has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option(help="Configuration file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: a.b=value.")]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Bind an address other than loopback without token and TLS.")
]


def insecurely(overrides: Sequence[str] | None, insecure: bool) -> list[str]:
    """The --set options of a service's command line, with what its --insecure stands for."""
    return [*(overrides or ()), *(["security.insecure=true"] if insecure else [])]
