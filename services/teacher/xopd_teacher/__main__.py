"""Start a teacher pod: `python -m xopd_teacher --config CONFIG [--set a.b=c]`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from xopd.service.lifecycle import run_service
from xopd.service.logs import configure_logging

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    config: Annotated[Path, typer.Option(help="Configuration file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: a.b=value.")] = None,
) -> None:
    """Score responses under the text prompt, over gRPC."""

    async def _serve(stop: asyncio.Event) -> None:
        # Torch and transformers load here, so that `--help` and a mistaken configuration answer at once.
        from xopd.config import load_config

        settings = load_config(config, overrides or ())
        configure_logging("teacher", settings.teacher.log_level)
        from xopd.tracing import tracing
        from xopd_teacher.server import serve

        opening = tracing(settings, "teacher")
        await serve(settings.teacher, stop, opening, one_by_one=settings.run.deterministic)

    run_service(_serve)


if __name__ == "__main__":
    app()
