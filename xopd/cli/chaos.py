"""`xopd chaos`: a run on this machine whose parts are killed, frozen and cut off, and whose books must close."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from xopd.cli.show import PlainOption, SetOption, StartTimeoutOption

if TYPE_CHECKING:
    from rich.console import Console

    from xopd.chaos.run import ChaosReport
    from xopd.config import Config
    from xopd.local.rundir import RunFolder

HELP = "Kill, freeze and cut off parts of a local run on a seeded schedule, then audit it."
PRESETS = (
    "run.steps=20000",
    "run.checkpoint_every=5",
    "evals.every=0",
    "redis.lease_s=4",
    "trainer.redispatch_after_s=20",
)
"""Steps enough for any time, checkpoints often, and short leases; --set wins over them."""
LAST_STEPS = 3
"""Taken after the last fault, to the run's proper end."""


def chaos(
    config: Annotated[str, typer.Argument(metavar="[CONFIG]", help="YAML configuration of the run.")] = (
        "examples/tiny/demo.yaml"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides what happens when.")] = 0,
    minutes: Annotated[float, typer.Option("--minutes", min=0.2, help="How long faults happen.")] = 10.0,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=1, help="Mean time between faults.")] = 12.0,
    each: Annotated[bool, typer.Option("--each", help="Every kind of fault once, one after another, instead.")] = False,
    json_: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write what happened to FILE.")] = None,
    set_: SetOption = None,
    plain: PlainOption = False,
    start_timeout: StartTimeoutOption = 600.0,
) -> None:
    """Exit status: 0 if the run went on after every fault and its books close, 1 if not."""
    import json
    from pathlib import Path

    from rich.console import Console

    from xopd.chaos.books import print_chaos
    from xopd.chaos.run import ChaosReport
    from xopd.config import load_config
    from xopd.errors import UserError
    from xopd.ledger.audit import audit_run

    own = load_config(config, set_ or ())
    presets = [*PRESETS, f"run.name={own.run.name}-chaos"]
    settings = load_config(config, [*presets, *(set_ or ())])
    if settings.redis.url is not None or settings.teacher.endpoints:
        raise UserError(
            "xopd chaos needs a Redis and a teacher of its own: leave redis.url and teacher.endpoints empty."
        )
    console = Console(highlight=False)
    report = ChaosReport(None if each else seed)
    folder = _disturbed(
        console, settings, config, report, None if each else (minutes * 60, every), plain, start_timeout
    )
    report.audit = audit_run(folder.path)
    print_chaos(console, str(folder.path), report)
    if json_ is not None:
        Path(json_).write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    raise typer.Exit(0 if report.passed else 1)


def _disturbed(
    console: Console,
    settings: Config,
    config: str,
    report: ChaosReport,
    schedule: tuple[float, float] | None,
    plain: bool,
    start_timeout: float,
) -> RunFolder:
    """Run under faults, then let the run end undisturbed. `schedule`: length and mean interval (seconds)."""
    import asyncio

    from xopd.chaos.faults import FAULTS, draw_schedule
    from xopd.chaos.run import Chaos
    from xopd.chaos.session import ChaosSession
    from xopd.chaos.system import System
    from xopd.checks.run import Checks
    from xopd.ledger.audit import audit_run
    from xopd.local.fleet import plan_fleet
    from xopd.local.live import make_view
    from xopd.local.rundir import folder_of, locked, prepare
    from xopd.local.session import Outcome, Session
    from xopd.security import read_credentials

    for warning in Checks(settings).run_quick():
        console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    with locked(folder_of(settings)):
        folder = prepare(settings, config, resume=False, overwrite=True)
        view = make_view(console, settings.run.name, settings.run.steps, plain)

        async def _disturb(system: System) -> None:
            chaos = Chaos(system, report, view.event)
            if schedule is None:
                await chaos.one_after_another(FAULTS)
            else:
                assert report.seed is not None
                await chaos.by_schedule(draw_schedule(report.seed, *schedule), schedule[0])

        session = ChaosSession(plan_fleet(settings, folder, False), settings, folder, view, start_timeout, _disturb)
        outcome = asyncio.run(session.run())
        if outcome is Outcome.FAILED:
            report.findings.append(f"the run ended: {session.failure}")
            return folder
        if session.stop.signal:
            raise typer.Exit(128 + session.stop.signal)
        steps = audit_run(folder.path).steps + LAST_STEPS
        rest = settings.model_copy(update={"run": settings.run.model_copy(update={"steps": steps})})
        folder = prepare(rest, config, resume=True, overwrite=False)
        view = make_view(console, rest.run.name, steps, plain)
        last = Session(plan_fleet(rest, folder, True), folder, view, start_timeout, read_credentials(rest.security))
        if asyncio.run(last.run()) is not Outcome.FINISHED:
            report.findings.append(f"the run could not be finished: {last.failure or 'it was stopped'}")
    return folder
