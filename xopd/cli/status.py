"""`xopd status`: a run and its fleet, from anywhere that reaches its Redis."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xopd.cli.show import SetOption
from xopd.errors import UserError

if TYPE_CHECKING:
    from xopd.config.redis import RedisSettings

HELP = "Show a run and its pods from anywhere that reaches its Redis."
CONNECT_TIMEOUT_S = 3.0


def status(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run, such as runs/NAME.")] = None,
    config: Annotated[str | None, typer.Option("--config", metavar="CONFIG", help="A configuration.")] = None,
    redis: Annotated[
        str | None,
        typer.Option("--redis", metavar="URL", envvar="XOPD_REDIS__URL", help="redis://HOST:PORT; needs no files."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="P", envvar="XOPD_REDIS__PREFIX", help="redis.prefix of the run.")
    ] = None,
    set_: SetOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a reading, for programs.")] = False,
) -> None:
    """Read what the trainer and the pods say of themselves."""
    import asyncio

    from rich.console import Console

    from xopd.status.table import show

    settings = _settings(run, config, redis, prefix, set_ or ())
    asyncio.run(show(Console(highlight=False), settings, watch, as_json))


def _settings(
    run: Path | None, config: str | None, url: str | None, prefix: str | None, sets: list[str] | tuple[()]
) -> RedisSettings:
    import os

    from pydantic import ValidationError

    from xopd.config import load_config
    from xopd.config.redis import RedisSettings
    from xopd.config.section import first_message
    from xopd.local.embedded_redis import redis_of_run

    if run is not None and config is not None:
        raise UserError("xopd status: give the folder of a run or --config CONFIG, not both.")
    if run is None and config is None:
        if url is None:
            raise UserError("xopd status: give --redis URL, the folder of a run, or --config CONFIG.")
        if sets:
            raise UserError("xopd status: --set changes a configuration; give one, or --redis and --prefix alone.")
        # Password and certificates have no place on a command line: they come by the variables of their settings.
        names = {name: f"XOPD_REDIS__{name.upper()}" for name in RedisSettings.model_fields if name != "prefix"}
        known = {name: os.environ[variable] for name, variable in names.items() if variable in os.environ}
        try:
            settings = RedisSettings.model_validate({"connect_timeout_s": CONNECT_TIMEOUT_S, **known, "url": url})
        except ValidationError as error:
            where = ".".join(["redis", *map(str, error.errors()[0]["loc"])])
            raise UserError(f"{where}: {first_message(error)}.") from None
        return settings if prefix is None else settings.model_copy(update={"prefix": prefix})
    settings = load_config(config if config is not None else f"{run}/config.yaml", sets).redis
    if url is None and settings.url is None and run is not None:
        url = redis_of_run(run)
    given = {"url": url, "prefix": prefix}
    return settings.model_copy(update={name: value for name, value in given.items() if value is not None})
