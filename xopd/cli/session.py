"""One `xopd up`: bring everything up in order, watch over it, end it in order."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import signal
from collections.abc import Coroutine
from typing import Any

from xopd.cli.fleet import Fleet, child_environment
from xopd.cli.rundir import RunFolder
from xopd.cli.view import View
from xopd.errors import UserError
from xopd.service.supervisor import ProcessFailedError, Supervisor

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

    def __init__(self, fleet: Fleet, folder: RunFolder, view: View, start_timeout_s: float) -> None:
        """Prepare; nothing is started yet."""
        self.fleet = fleet
        self.folder = folder
        self.view = view
        self.start_timeout_s = start_timeout_s
        self.failure: UserError | None = None
        self.stopped_by = 0
        """Number of the signal that ended the session, 0 for none."""
        self._stop = asyncio.Event()

    async def run(self) -> Outcome:
        """Run until the trainer ends, a signal comes, or something cannot be had."""
        supervisor = Supervisor(child_environment(), self.view.event, self.folder.processes / "pids.json")
        self._catch_signals(supervisor)
        showing = asyncio.create_task(self.view.show(supervisor))
        try:
            await unless_stopped(self._bring_up(supervisor), self._stop)
            await unless_stopped(self._watch(supervisor), self._stop)
        except UserError as error:
            self.failure = error
        finally:
            await self._end(supervisor)
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
            await supervisor.aclose()
        if self._stop.is_set() and not self.folder.summary.exists():
            return Outcome.STOPPED
        return Outcome.FAILED if self.failure is not None else Outcome.FINISHED

    def _catch_signals(self, supervisor: Supervisor) -> None:
        def _caught(signum: signal.Signals) -> None:
            if self._stop.is_set():
                self.view.event("killing what is left")
                supervisor.kill_all()
            else:
                self.stopped_by = int(signum)
                self._stop.set()
                self.view.event("stopping: the trainer writes a checkpoint first; once more Ctrl-C kills everything")

        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, _caught, signum)

    async def _bring_up(self, supervisor: Supervisor) -> None:
        fleet = self.fleet
        for spec in fleet.redis:
            supervisor.start(spec)
        await supervisor.until_ready([(fleet.names["redis"], len(fleet.redis))], 30.0)
        for spec in (*fleet.teachers, *fleet.pods):
            supervisor.start(spec)
        needs = [(fleet.names["teacher"], len(fleet.teachers)), (fleet.names["rollout"], 1)]
        await supervisor.until_ready(needs, self.start_timeout_s)
        supervisor.start(fleet.trainer)

    async def _watch(self, supervisor: Supervisor) -> None:
        trainer = supervisor.processes[self.fleet.trainer.name]
        while trainer.state != "ended":
            await supervisor.tick()
            for role in ("redis", "teacher", "rollout"):
                members = supervisor.of_role(role)
                if members and all(managed.state == "failed" for managed in members):
                    raise supervisor.failure(members[0])
            await asyncio.sleep(0.2)
        if trainer.exit_status != 0:
            raise supervisor.failure(trainer)
        if not self.folder.summary.exists():
            raise ProcessFailedError(f"the trainer ended before its last step; its log is {trainer.spec.log}.", ())

    async def _end(self, supervisor: Supervisor) -> None:
        names = self.fleet.names
        trainer = supervisor.processes.get(self.fleet.trainer.name)
        was_running = trainer is not None and trainer.pid is not None
        await supervisor.stop(names["trainer"], TRAINER_GRACE_S)
        if trainer is not None and was_running and trainer.exit_status != 0 and self.failure is None:
            self.view.event(str(supervisor.failure(trainer)))
        await supervisor.stop([*names["rollout"], *names["teacher"]], POD_GRACE_S)
        await supervisor.stop(names["redis"], REDIS_GRACE_S)


async def unless_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Await `work`, or cancel it when `stop` is set; not begun where it is set already."""
    if stop.is_set():
        work.close()
        return
    doing = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not doing.done():
        doing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await doing
