"""`xopd up`: the whole system on this machine, from one configuration, with a live view and a report."""

from __future__ import annotations

from typing import Annotated

import typer

from xopd.cli.show import PlainOption, SetOption, StartTimeoutOption

HELP = "Run the whole system on this machine: Redis, teacher, rollout pods and trainer, then the report."


def up(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML configuration of the run.")],
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run from its last checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove an earlier run of this name first.")] = False,
    plain: PlainOption = False,
    start_timeout: StartTimeoutOption = 600.0,
) -> None:
    """Start everything in order, watch over it, and show how it goes."""
    import asyncio

    from rich.console import Console

    from xopd.checks.run import Checks
    from xopd.config import load_config
    from xopd.families.hub import Checkpoints
    from xopd.local import finish
    from xopd.local.fetching import fetch_checkpoints
    from xopd.local.fleet import plan_fleet
    from xopd.local.live import make_view
    from xopd.local.rundir import folder_of, locked, prepare
    from xopd.local.session import Outcome, Session
    from xopd.security import read_credentials

    console = Console(highlight=False)
    settings, checkpoints = load_config(config, set_ or ()), Checkpoints()
    resumes = folder_of(settings).path if resume else None
    with console.status("checking"):
        warnings = Checks(settings, checkpoints).run_quick(resumes)
    for warning in warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    fetch_checkpoints(console, checkpoints, [settings], plain)
    settings = checkpoints.located(settings)
    with locked(folder_of(settings)):
        folder = prepare(settings, config, resume, overwrite)
        fleet = plan_fleet(settings, folder, resume)
        view = make_view(console, settings.run.name, settings.run.steps, plain)
        session = Session(fleet, folder, view, start_timeout, read_credentials(settings.security))
        outcome = asyncio.run(session.run())
    if outcome is Outcome.FINISHED:
        finish.print_finished(console, folder)
        return
    again = finish.resume_command(config, set_ or (), folder)
    if outcome is Outcome.FAILED:
        assert session.failure is not None
        finish.print_resume(console, again, folder)
        raise session.failure
    console.print("Stopped.")
    finish.print_resume(console, again, folder)
    raise typer.Exit(128 + session.stop.signal)
