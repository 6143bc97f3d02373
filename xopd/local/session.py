"""One `xopd up`: bring everything up in order, watch over it, end it in order."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Sequence

from xopd.errors import UserError
from xopd.local.fleet import Fleet, child_environment
from xopd.local.rundir import RunFolder
from xopd.local.scaling import Scaler
from xopd.local.stopping import Stop
from xopd.local.supervisor import TICK_S, ProcessFailedError, ProcessSpec, Supervisor
from xopd.local.view import View, verify_by
from xopd.security import Credentials
from xopd.service.folders import emptied, scratch_path
from xopd.service.lifecycle import STOPPED_STATUSES

TRAINER_GRACE_S = 120.0
"""The trainer may be within a step, and then writes its checkpoint."""
POD_GRACE_S = 15.0
REDIS_GRACE_S = 5.0


class Outcome(enum.Enum):
    """How a session ended."""

    FINISHED = "finished"
    """The trainer wrote its summary."""
    STOPPED = "stopped"
    """Someone asked for it."""
    FAILED = "failed"
    """See Session.failure."""


class Session:
    """The processes of one run, from the first start to the last end."""

    def __init__(
        self, fleet: Fleet, folder: RunFolder, view: View, start_timeout_s: float, credentials: Credentials
    ) -> None:
        """Prepare; nothing is started yet."""
        self.fleet = fleet
        self.credentials = credentials
        self.folder = folder
        self.view = view
        self.start_timeout_s = start_timeout_s
        self.failure: UserError | None = None
        self.stop = Stop()
        self.scaler = Scaler(fleet, folder, view.event)

    async def run(self) -> Outcome:
        """Run until the trainer ends, a signal comes, or something cannot be had."""
        scratch = scratch_path(self.folder.path)
        pids = self.folder.processes / "pids.json"
        supervisor = Supervisor(child_environment(scratch), self.view.event, pids, verify_by(self.credentials))
        self.stop.catch_signals(supervisor, self.view.event, "the trainer writes a checkpoint first")
        with emptied(scratch):
            return await self._run(supervisor)

    async def _run(self, supervisor: Supervisor) -> Outcome:
        showing = asyncio.create_task(self.view.show(supervisor, self.credentials))
        try:
            await self.stop.unless_asked(self._bring_up(supervisor))
            await self.stop.unless_asked(self._watch(supervisor))
        except UserError as error:
            self.failure = error
        finally:
            await self._end(supervisor)
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
            await supervisor.aclose()
        if self.stop.asked.is_set() and not self.folder.summary.exists():
            return Outcome.STOPPED
        return Outcome.FAILED if self.failure is not None else Outcome.FINISHED

    async def _bring_up(self, supervisor: Supervisor) -> None:
        fleet = self.fleet
        for spec in fleet.redis:
            supervisor.start(spec)
        await supervisor.until_ready([(_names(fleet.redis), len(fleet.redis))], 30.0)
        for spec in (*fleet.teachers, *fleet.pods):
            supervisor.start(spec)
        needs = [(_names(fleet.teachers), len(fleet.teachers)), (_names(fleet.pods), 1)]
        await supervisor.until_ready(needs, self.start_timeout_s)
        supervisor.start(fleet.trainer)

    async def _watch(self, supervisor: Supervisor) -> None:
        trainer = supervisor.processes[self.fleet.trainer.name]
        while trainer.state not in ("ended", "failed"):
            await supervisor.tick()
            self.scaler.follow(supervisor)
            for role in ("redis", "teacher", "rollout"):
                members = [managed for managed in supervisor.of_role(role) if managed.state != "ended"]
                if members and all(managed.state == "failed" for managed in members):
                    raise supervisor.failure(members[0])
            await asyncio.sleep(TICK_S)
        if trainer.exit_status is not None and trainer.exit_status in STOPPED_STATUSES:
            self.stop.ask(trainer.exit_status - 128)
            self.view.event("the trainer was stopped from outside; its checkpoint is written")
            return
        if trainer.exit_status != 0:
            raise supervisor.failure(trainer)
        if not self.folder.summary.exists():
            raise ProcessFailedError(f"the trainer ended before its last step; its log is {trainer.spec.log}.", ())

    async def _end(self, supervisor: Supervisor) -> None:
        await self.scaler.aclose()
        trainer = supervisor.processes.get(self.fleet.trainer.name)
        was_running = trainer is not None and trainer.pid is not None
        await supervisor.stop([self.fleet.trainer.name], TRAINER_GRACE_S)
        in_order = {0, *STOPPED_STATUSES}
        if trainer is not None and was_running and trainer.exit_status not in in_order and self.failure is None:
            self.view.event(str(supervisor.failure(trainer)))
        pods = [managed.spec.name for role in ("rollout", "teacher") for managed in supervisor.of_role(role)]
        await supervisor.stop(pods, POD_GRACE_S)
        await supervisor.stop(_names(self.fleet.redis), REDIS_GRACE_S)


def _names(specs: Sequence[ProcessSpec]) -> list[str]:
    return [spec.name for spec in specs]
