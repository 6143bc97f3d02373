"""Start a rollout pod: `python -m xopd_rollout --config CONFIG [--set a.b=c]`."""

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
    """Sample responses of the student with vLLM, for the run whose prompts lie in Redis."""

    async def _serve(stop: asyncio.Event) -> None:
        from xopd.config import load_config
        from xopd.families.download import Lines
        from xopd.families.hub import resolve_checkpoints
        from xopd.security import read_credentials, refuse_insecure_address, refuse_insecure_redis

        settings = load_config(config, insecurely(overrides, insecure))
        configure_logging("rollout", settings.rollout.log_level)
        refuse_insecure_address(settings, "rollout.host", settings.rollout.host)
        refuse_insecure_redis(settings)
        credentials = read_credentials(settings.security)
        # Before the environment keeps the hub from being asked.
        lines = Lines(structlog.get_logger(__name__).info)
        settings = resolve_checkpoints(settings, {"student": True}, lines)
        # Before torch and vLLM are imported: they read the environment then.
        from xopd_rollout.environment import set_environment

        set_environment(settings.rollout)
        from xopd_rollout.contract import EngineDiedError
        from xopd_rollout.pod import Pod

        try:
            await Pod(settings, credentials).run(stop)
        except EngineDiedError as error:
            structlog.get_logger(__name__).error("the engine has died", error=str(error))
            raise SystemExit(1) from None

    run_service(_serve)


if __name__ == "__main__":
    app()
