"""Start the trainer: `python -m xopd_trainer --config CONFIG [--set a.b=c] [--resume]`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import structlog
import typer

from xopd.service.lifecycle import (
    ConfigOption,
    InsecureOption,
    SetOption,
    StoppedEarlyError,
    announce_addresses,
    insecurely,
    large_imports,
    run_service,
)
from xopd.telemetry.logs import configure_logging

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    config: ConfigOption,
    overrides: SetOption = None,
    insecure: InsecureOption = False,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint of this run.")] = False,
) -> None:
    """Train a speech LLM with X-OPD, against rollout and teacher pods.

    Exit status: 0 once the run has reached its end; 143 or 130 where SIGTERM or SIGINT stopped it before, after a
    checkpoint from which --resume goes on; 2 for a mistake that the last line names; 1 for a crash.
    """

    async def _serve(stop: asyncio.Event) -> None:
        # Torch and transformers load here, so that `--help` and a mistaken configuration answer at once.
        from xopd.config import load_config
        from xopd.families.download import Lines
        from xopd.families.hub import resolve_checkpoints
        from xopd.security import (
            read_credentials,
            refuse_insecure_address,
            refuse_insecure_calls,
            refuse_insecure_redis,
        )
        from xopd.service.http import bind, serving

        settings = load_config(config, insecurely(overrides, insecure))
        configure_logging("trainer", settings.trainer.log_level)
        refuse_insecure_address(settings, "trainer.host", settings.trainer.host)
        refuse_insecure_calls(settings)
        refuse_insecure_redis(settings)
        credentials = read_credentials(settings.security)
        with large_imports():
            from xopd_trainer.app import make_trainer_app
            from xopd_trainer.assembly import assembled, ensure_folders

        # Before the model is loaded and a teacher is waited for: a taken port or a missing volume is told at once.
        listener = bind(settings.trainer.host, settings.trainer.port, "trainer.port")
        ensure_folders(settings)
        lines = Lines(structlog.get_logger(__name__).info)
        # Teachers have the teacher's weights; the trainer needs its tokenizer.
        settings = resolve_checkpoints(settings, {"student": True, "teacher": False}, lines)
        async with assembled(settings, credentials) as run:

            async def _ready() -> str | None:
                return "starting" if run.status.phase == "starting" else None

            http = make_trainer_app(run.metrics, run.running, run.parts.status_keeper.answer, _ready)
            async with serving(http, listener, credentials):
                host, port = listener.getsockname()[:2]
                announce_addresses(http=f"{host}:{port}", scheme=credentials.scheme)
                await run.run(resume, stop)
                # One more look for whoever polls /status: the end should be seen.
                await asyncio.sleep(1.0)
                if run.status.phase != "finished":
                    raise StoppedEarlyError

    run_service(_serve)


if __name__ == "__main__":
    app()
