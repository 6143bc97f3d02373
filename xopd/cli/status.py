"""`xopd status`: the fleet of a run as Redis knows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xopd.cli.show import SetOption
from xopd.errors import UserError

if TYPE_CHECKING:
    from xopd.cli.fleet_state import FleetState

HELP = "Show the run and its rollout pods as Redis knows them, from a run's folder or a configuration."


def status(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run, such as runs/NAME.")] = None,
    config: Annotated[str | None, typer.Option("--config", metavar="CONFIG", help="Instead: a configuration.")] = None,
    set_: SetOption = None,
) -> None:
    """Read the keys of the run and of its pods, once."""
    import asyncio

    from rich.console import Console

    from xopd.cli.fleet_state import read_fleet, redis_of_run
    from xopd.config import load_config

    if (run is None) == (config is None):
        raise UserError("xopd status: give the folder of a run or --config CONFIG, one of them.")
    settings = load_config(config if config is not None else f"{run}/config.yaml", set_ or ())
    redis = settings.redis
    if redis.url is None and run is not None:
        redis = redis.model_copy(update={"url": redis_of_run(run)})
    _print(Console(highlight=False), asyncio.run(read_fleet(redis)))


def _print(console: object, fleet: FleetState) -> None:
    from rich.console import Console
    from rich.table import Table

    from xopd.cli.show import count, duration, percent

    assert isinstance(console, Console)
    if fleet.run is None:
        console.print("No run is under way: its key is not there.")
    else:
        state = "finished" if fleet.run.finished else f"begun {duration(fleet.now - fleet.run.started_at)} ago"
        console.print(f"[bold]{fleet.run.run_name}[/bold]  {state}  student {fleet.run.student}", soft_wrap=True)
    console.print(
        f"{count(fleet.prompts)} prompt groups wait or are worked on, {count(fleet.trajectories)} answers wait,"
        f" {count(fleet.dead)} unusable entries, weights v{fleet.newest_version if fleet.newest_version >= 0 else '–'}"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("pod", no_wrap=True)
    for heading in ("weights", "in flight", "tokens", "busy", "sync", "idle", "heartbeat"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    for pod in fleet.pods:
        lived = pod.busy_seconds + pod.sync_seconds + pod.idle_seconds or 1.0
        shares = (percent(s / lived, 0) for s in (pod.busy_seconds, pod.sync_seconds, pod.idle_seconds))
        table.add_row(
            pod.pod_id,
            f"v{pod.policy_version}",
            str(pod.in_flight_groups),
            count(pod.generated_tokens),
            *shares,
            f"{duration(fleet.now - pod.beat_at)} ago",
            "draining" if pod.draining else "working",
            f"{pod.engine} {pod.engine_version}",
        )
    console.print(table if fleet.pods else "No rollout pod has a heartbeat.")
