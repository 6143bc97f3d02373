"""A run on this machine as chaos sees it: processes to stop, connections to break, and the progress of the trainer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from xopd.chaos.proxy import FaultProxy
from xopd.errors import UserError
from xopd.ledger import ledger_path
from xopd.ledger.schema import open_database
from xopd.local.supervisor import Managed, ProcessSpec, Supervisor
from xopd.readable import IN_UTF8

LOOK_EVERY_S = 0.05


@dataclass
class System:
    """The parts of one run, and what may be done to them. All waits end when the caller is cancelled."""

    supervisor: Supervisor
    folder: Path
    """The run's folder."""
    proxies: dict[str, FaultProxy]
    """By what they stand before: `redis`, `teacher`."""
    lease_s: float
    checkpoint_every: int
    redis_data: Path
    another_pod: Callable[[int], ProcessSpec]
    """The spec of a further rollout pod, by its number."""
    trainer: ProcessSpec

    def of_role(self, role: str) -> list[Managed]:
        """Running processes of a role."""
        return [managed for managed in self.supervisor.of_role(role) if managed.pid is not None]

    async def one_of(self, role: str, index: int = 0) -> Managed:
        """A running, ready process of a role; waits for one."""
        while True:
            ready = [managed for managed in self.of_role(role) if managed.state == "ready"]
            if ready:
                return ready[index % len(ready)]
            await asyncio.sleep(LOOK_EVERY_S)

    async def kill(self, role: str, index: int = 0) -> None:
        """SIGKILL a process; its supervisor starts it again."""
        self._strike(await self.one_of(role, index))

    async def kill_trainer(self) -> None:
        """SIGKILL the trainer when it has taken steps that no checkpoint holds, and is within the next."""
        while self.newest_step() % self.checkpoint_every in (0, self.checkpoint_every - 1):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)
        await self.kill("trainer")

    async def freeze(self, role: str, seconds: float, index: int = 0) -> None:
        """SIGSTOP a process and its children for so long, then SIGCONT."""
        pid = (await self.one_of(role, index)).pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                os.killpg(pid, signal.SIGCONT)

    async def empty_redis(self) -> None:
        """SIGKILL Redis and remove its data: it comes back knowing nothing."""
        self._strike(await self.one_of("redis"))
        for path in sorted(self.redis_data.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()

    async def fill_disk(self, seconds: float) -> None:
        """For so long no file of the trainer can grow, as on a full disk: checkpoints, weights, ledger, log."""
        pid = (await self.one_of("trainer")).pid
        assert pid is not None
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
            try:
                await asyncio.sleep(seconds)
            finally:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)

    async def kill_at_update(self) -> None:
        """SIGKILL a rollout pod in the moment that a weight version appears, which it is about to load."""
        pod = await self.one_of("rollout")
        await self._next_version()
        self._strike(pod)

    async def damage_weights(self) -> None:
        """Flip a bit of a weight version in the moment that it appears: the pods are about to load it."""
        version = await self._next_version()
        with contextlib.suppress(FileNotFoundError), version.open("r+b") as file:
            file.seek(version.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))

    async def join(self) -> None:
        """Start one more rollout pod and wait until it is ready."""
        number = len(self.supervisor.of_role("rollout"))
        spec = self.another_pod(number)
        managed = self.supervisor.start(spec)
        while managed.state != "ready":
            if managed.state in ("failed", "ended"):
                raise self.supervisor.failure(managed)
            await asyncio.sleep(LOOK_EVERY_S)

    async def leave(self) -> None:
        """SIGTERM the newest rollout pod; it drains, and does not come back."""
        pod = self.of_role("rollout")[-1]
        await self.supervisor.stop([pod.spec.name], 60.0)

    async def second_trainer(self) -> None:
        """Start a second trainer of the same run.

        Raises:
            UserError: if it does not refuse.
        """
        log = self.folder / "logs" / "trainer-second.log"
        environment = {**self.supervisor.base_env, **self.trainer.env, **IN_UTF8}
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(self.trainer.argv_again or self.trainer.argv), stdout=output, stderr=output, env=environment
            )
            status = await process.wait()
        if status != 2 or "another trainer is at work" not in log.read_text(encoding="utf-8"):
            raise UserError(f"a second trainer of the run ended with status {status} and did not refuse; see {log}.")

    async def until_steps(self, n: int, since: float) -> None:
        """Wait until `n` steps have been taken after the time `since` (epoch), those done once more included."""
        while self.steps_since(since) < n:  # noqa: ASYNC110 (another process writes them)
            await asyncio.sleep(LOOK_EVERY_S)

    def steps_since(self, since: float) -> int:
        """Steps taken after the time `since` (epoch)."""
        return self._ask("SELECT count(*) FROM steps WHERE at > ?", since)

    def newest_step(self) -> int:
        """The newest step that counts."""
        return self._ask("SELECT coalesce(max(step), 0) FROM steps WHERE NOT undone")

    async def _next_version(self) -> Path:
        """The file of the next weight version, as soon as it appears."""
        weights = self.folder / "weights"
        before = set(weights.glob("*.safetensors"))
        while not (new := set(weights.glob("*.safetensors")) - before):  # noqa: ASYNC110 (files tell nobody)
            await asyncio.sleep(0.001)
        return new.pop()

    @staticmethod
    def _strike(managed: Managed) -> None:
        # A process that dies again and again is given up as broken; this one is not.
        managed.quick_deaths = 0
        if managed.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(managed.pid, signal.SIGKILL)

    def _ask(self, query: str, *values: float) -> int:
        try:
            with closing(open_database(ledger_path(self.folder), read_only=True)) as database:
                return int(database.execute(query, values).fetchone()[0])
        except sqlite3.Error:
            return 0


async def recovery_s(system: System, began: float, steps: int, timeout_s: float) -> float:
    """Seconds from `began` (epoch) until `steps` further steps are taken.

    Raises:
        UserError: if they are not within `timeout_s` (seconds).
    """
    try:
        async with asyncio.timeout(timeout_s):
            await system.until_steps(steps, began)
    except TimeoutError:
        raise UserError(
            f"{system.folder}: no {steps} steps within {timeout_s:g} s after the fault; see {system.folder / 'logs'}."
        ) from None
    return time.time() - began
