"""Start a teacher pod: `python -m xopd_teacher --config CONFIG [--set a.b=c]`."""

from __future__ import annotations

import asyncio

import structlog
import typer

from xopd.service.lifecycle import ConfigOption, InsecureOption, SetOption, insecurely, run_service
from xopd.telemetry.logs import configure_logging

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    config: ConfigOption,
    overrides: SetOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Score responses under the text prompt, over gRPC."""

    async def _serve(stop: asyncio.Event) -> None:
        # Torch and transformers load here, so that `--help` and a mistaken configuration answer at once.
        from xopd.config import load_config
        from xopd.families.download import Lines
        from xopd.families.hub import resolve_checkpoints
        from xopd.security import read_credentials, refuse_insecure_address

        settings = load_config(config, insecurely(overrides, insecure))
        configure_logging("teacher", settings.teacher.log_level)
        refuse_insecure_address(settings, "teacher.host", settings.teacher.host)
        credentials = read_credentials(settings.security)
        lines = Lines(structlog.get_logger(__name__).info)
        settings = resolve_checkpoints(settings, {"teacher": True}, lines)
        from xopd.telemetry import tracing
        from xopd_teacher.server import serve

        opening = tracing(settings, "teacher")
        await serve(settings.teacher, credentials, stop, opening, one_by_one=settings.run.deterministic)

    run_service(_serve)


if __name__ == "__main__":
    app()
