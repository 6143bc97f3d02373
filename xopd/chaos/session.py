"""An `xopd up` under faults: the same processes, with proxies before Redis and the teacher, disturbed at work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from xopd.chaos.faults import FAULTS, draw_schedule
from xopd.chaos.proxy import FaultProxy
from xopd.chaos.run import Chaos, ChaosReport
from xopd.chaos.system import System
from xopd.checks.run import Checks
from xopd.config import Config, load_config
from xopd.errors import UserError
from xopd.families.hub import Checkpoints
from xopd.ledger.audit import audit_run
from xopd.local.embedded_redis import HOST, free_port
from xopd.local.fetching import fetch_checkpoints
from xopd.local.fleet import Fleet, plan_fleet, variable
from xopd.local.live import make_view
from xopd.local.rundir import RunFolder, folder_of, locked, prepare
from xopd.local.session import Outcome, Session
from xopd.local.supervisor import ProcessSpec, Supervisor
from xopd.local.view import View
from xopd.security import read_credentials
from xopd.service.lifecycle import end_tasks

Disturb = Callable[[System], Awaitable[None]]
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


class ChaosSession(Session):
    """Ends the run, with a checkpoint, when `disturb` has returned."""

    def __init__(
        self, fleet: Fleet, config: Config, folder: RunFolder, view: View, start_timeout_s: float, disturb: Disturb
    ) -> None:
        """Put proxies between the services of `fleet`, which must have a Redis and a teacher of its own."""
        self.proxies = {
            "redis": FaultProxy(free_port(), (HOST, _port_of(fleet.redis[0].argv))),
            "teacher": FaultProxy(free_port(), (HOST, int(fleet.teachers[0].env[TEACHER_PORT]))),
        }
        super().__init__(self._through_proxies(fleet), folder, view, start_timeout_s, read_credentials(config.security))
        self.config = config
        self.disturb = disturb

    async def _bring_up(self, supervisor: Supervisor) -> None:
        for proxy in self.proxies.values():
            await proxy.start()
        await super()._bring_up(supervisor)

    async def _watch(self, supervisor: Supervisor) -> None:
        system = System(
            supervisor,
            self.folder.path,
            self.proxies,
            self.config.redis.lease_s,
            self.config.run.checkpoint_every,
            self.folder.path / "redis",
            self.fleet.more["rollout"],
            self.fleet.trainer,
        )
        disturbing = asyncio.ensure_future(self.disturb(system))
        watching = asyncio.ensure_future(super()._watch(supervisor))
        try:
            await asyncio.wait((disturbing, watching), return_when=asyncio.FIRST_COMPLETED)
            for task in (watching, disturbing):
                if task.done():
                    task.result()
            self.stop.asked.set()
        finally:
            await end_tasks([disturbing, watching])

    async def _end(self, supervisor: Supervisor) -> None:
        await super()._end(supervisor)
        for proxy in self.proxies.values():
            await proxy.close()

    def _through_proxies(self, fleet: Fleet) -> Fleet:
        plain_pod = fleet.more["rollout"]
        redis = {REDIS_URL: f"redis://{HOST}:{self.proxies['redis'].port}/0"}
        teacher = {TEACHER_ENDPOINTS: json.dumps([f"{HOST}:{self.proxies['teacher'].port}"])}

        def _pod(index: int) -> ProcessSpec:
            pod = plain_pod(index)
            return replace(pod, env={**pod.env, **redis})

        return replace(
            fleet,
            pods=tuple(_pod(index) for index in range(len(fleet.pods))),
            more={**fleet.more, "rollout": _pod},
            trainer=replace(fleet.trainer, env={**fleet.trainer.env, **redis, **teacher}),
        )


REDIS_URL = variable("redis", "url")
TEACHER_PORT = variable("teacher", "port")
TEACHER_ENDPOINTS = variable("teacher", "endpoints")


def _port_of(argv: tuple[str, ...]) -> int:
    return int(argv[argv.index("--port") + 1])


def load_presets(config: str, overrides: Sequence[str]) -> Config:
    """The configuration `config` as chaos runs it. Raises UserError where Redis or a teacher is somebody else's."""
    name = load_config(config, overrides).run.name
    settings = load_config(config, [*PRESETS, f"run.name={name}-chaos", *overrides])
    if settings.redis.url is not None or settings.teacher.endpoints:
        raise UserError(
            "xopd chaos needs a Redis and a teacher of its own: leave redis.url and teacher.endpoints empty."
        )
    return settings


def disturbed_run(
    console: Console,
    settings: Config,
    config: str,
    schedule: tuple[int, float, float] | None,
    plain: bool,
    start_timeout_s: float,
) -> tuple[Path, ChaosReport]:
    """Run under faults, let the run end undisturbed, and audit it.

    Args:
        console: where the run is shown.
        settings: as `load_presets` gives them.
        config: the file that they come from.
        schedule: seed, length and mean interval (seconds) of faults at random; None: each kind of fault once.
        plain: show plain lines.
        start_timeout_s: longest wait for a service to be ready.

    Returns:
        The run's folder and the report.

    Raises:
        SystemExit: with 128 + its number, where a signal stopped it.
    """
    report = ChaosReport(None if schedule is None else schedule[0])
    checkpoints = Checkpoints()
    for warning in Checks(settings, checkpoints).run_quick():
        console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    fetch_checkpoints(console, checkpoints, [settings], plain)
    settings = checkpoints.located(settings)
    with locked(folder_of(settings)):
        folder = prepare(settings, config, resume=False, overwrite=True)
        view = make_view(console, settings.run.name, settings.run.steps, plain)

        async def _disturb(system: System) -> None:
            chaos = Chaos(system, report, view.event)
            if schedule is None:
                await chaos.one_after_another(FAULTS)
            else:
                await chaos.by_schedule(draw_schedule(*schedule), schedule[1])

        session = ChaosSession(plan_fleet(settings, folder, False), settings, folder, view, start_timeout_s, _disturb)
        outcome = asyncio.run(session.run())
        if session.stop.signal and outcome is not Outcome.FAILED:
            raise SystemExit(128 + session.stop.signal)
        if outcome is Outcome.FAILED:
            report.findings.append(f"the run ended: {session.failure}")
        else:
            steps = audit_run(folder.path).steps + LAST_STEPS
            rest = settings.model_copy(update={"run": settings.run.model_copy(update={"steps": steps})})
            folder = prepare(rest, config, resume=True, overwrite=False)
            view = make_view(console, rest.run.name, steps, plain)
            fleet = plan_fleet(rest, folder, True)
            last = Session(fleet, folder, view, start_timeout_s, read_credentials(rest.security))
            if asyncio.run(last.run()) is not Outcome.FINISHED:
                report.findings.append(f"the run could not be finished: {last.failure or 'it was stopped'}")
    report.audit = audit_run(folder.path)
    return folder.path, report
