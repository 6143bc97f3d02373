"""The processes of a comparison: services that stay up, and one trainer after the other in each lane.

A lane has its own rollout pods and its own part of Redis, so lanes do not disturb each other; teachers serve all.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from xopd.comparison.cells import Progress, begin, tidy
from xopd.comparison.matrix import Matrix
from xopd.config.secrets import secret_variables
from xopd.errors import UserError
from xopd.local.fleet import (
    child_environment,
    pod_spec,
    redis_spec,
    redis_variable,
    teacher_address,
    teacher_spec,
    threads_variable,
    trainer_spec,
    variable,
)
from xopd.local.rundir import RunFolder
from xopd.local.session import POD_GRACE_S, REDIS_GRACE_S, TRAINER_GRACE_S
from xopd.local.stopping import Stop
from xopd.local.supervisor import TICK_S, Supervisor, http_url
from xopd.local.view import StatusReader, verify_by
from xopd.security import read_credentials
from xopd.service.folders import emptied, scratch_path

ASK_EVERY_S = 1.0
"""Seconds between two looks at a trainer's status."""


class ComparisonSession:
    """Runs the unfinished runs of a comparison."""

    def __init__(
        self,
        matrix: Matrix,
        cells: list[Progress],
        on_event: Callable[[str], None],
        start_timeout_s: float,
        stop: Stop,
    ) -> None:
        """Start nothing yet; `on_event` is told whatever a person would want to know, `stop` ends everything."""
        self.matrix = matrix
        self.cells = cells
        self.on_event = on_event
        self.start_timeout_s = start_timeout_s
        self.stop = stop
        self.folder = RunFolder(matrix.folder)
        shared = matrix.shared
        credentials = read_credentials(shared.security)
        pids = self.folder.processes / "pids.json"
        self._scratch = scratch_path(self.folder.path)
        self.supervisor = Supervisor(child_environment(self._scratch), on_event, pids, verify_by(credentials))
        self.endpoints: dict[str, dict[str, str]] = {}
        """By teacher path: what tells a trainer where that teacher is."""
        self.lanes = min(matrix.file.jobs, max(1, sum(cell.state == "waiting" for cell in cells)))
        self._common = secret_variables(shared)
        self._reader = StatusReader(credentials)

    async def run(self) -> None:
        """Run until every run has ended or a stop is asked for; then end all processes.

        Raises:
            UserError: if a service cannot be had.
        """
        with emptied(self._scratch):
            try:
                await self.stop.unless_asked(self._bring_up())
                await self.stop.unless_asked(self._run_lanes())
            finally:
                await self._end()

    async def _bring_up(self) -> None:
        shared = self.matrix.shared
        if shared.redis.url is None:
            redis = redis_spec(self.folder, shared)
            self.supervisor.start(redis)
            await self.supervisor.until_ready([([redis.name], 1)], 30.0)
            self._common |= redis_variable(redis)
        needs: list[tuple[list[str], int]] = []
        for cell in self.cells:
            config = cell.cell.config
            if cell.state == "finished" or config.teacher.path in self.endpoints:
                continue
            self.endpoints[config.teacher.path] = {}
            if not config.teacher.endpoints:
                name = f"teacher-{len(self.endpoints) - 1}"
                spec = teacher_spec(name, config, self.folder, self._common)
                address = teacher_address(spec)
                self.endpoints[config.teacher.path] = {variable("teacher", "endpoints"): json.dumps([address])}
                self.supervisor.start(spec)
                needs.append(([spec.name], 1))
        for lane in range(self.lanes):
            pods = [
                pod_spec(lane * shared.rollout.pods + index, shared, self.folder, self._lane_variables(lane))
                for index in range(shared.rollout.pods)
            ]
            for pod in pods:
                self.supervisor.start(pod)
            needs.append(([pod.name for pod in pods], 1))
        await self.supervisor.until_ready(needs, self.start_timeout_s)

    def _lane_variables(self, lane: int) -> dict[str, str]:
        # A pod reads no other weight store than its own, so the runs of a lane write to the one that its pods read.
        store = self.matrix.shared.weights.uri or str(self._weights.resolve())
        return {
            **self._common,
            variable("redis", "prefix"): f"{self.matrix.shared.redis.prefix}-{lane}",
            variable("weights", "uri"): f"{store}/lane-{lane}",
        }

    @property
    def _weights(self) -> Path:
        return self.folder.path / "weights"

    async def _run_lanes(self) -> None:
        waiting = [cell for cell in self.cells if cell.state == "waiting"]
        try:
            async with asyncio.TaskGroup() as group:
                looking = group.create_task(self._look_after())
                lanes = [group.create_task(self._lane(lane, waiting)) for lane in range(self.lanes)]
                await asyncio.wait(lanes)
                looking.cancel()
        except* UserError as failures:
            raise failures.exceptions[0] from None

    async def _look_after(self) -> None:
        while True:
            await self.supervisor.tick()
            for role in ("redis", "teacher", "rollout"):
                for managed in self.supervisor.of_role(role):
                    if managed.state == "failed":
                        raise self.supervisor.failure(managed)
            await asyncio.sleep(TICK_S)

    async def _lane(self, lane: int, waiting: list[Progress]) -> None:
        while waiting:
            await self._run_cell(lane, waiting.pop(0))

    async def _run_cell(self, lane: int, progress: Progress) -> None:
        resume = begin(progress, self.cells)
        config = progress.cell.config
        env = {
            **self._lane_variables(lane),
            **self.endpoints[config.teacher.path],
            **threads_variable(config.trainer.threads),
        }
        trainer = trainer_spec(progress.folder, env, resume)
        progress.state, began = "running", time.monotonic()
        self.on_event(f"{progress.cell.name}: {'goes on' if resume else 'begins'}")
        managed = self.supervisor.start(replace(trainer, name=f"trainer-{lane}"))
        while managed.state not in ("ended", "failed"):
            status = await self._reader.ask(http_url(managed.addresses))
            if status is not None:
                progress.step, progress.phase = status.step, status.phase
            await asyncio.sleep(ASK_EVERY_S)
        if managed.exit_status == 0 and progress.folder.summary.exists():
            progress.state, progress.step = "finished", config.run.steps
            progress.seconds = time.monotonic() - began
            tidy(progress)
            self.on_event(f"{progress.cell.name}: finished in {progress.seconds:.0f} s")
        else:
            progress.state, progress.problem = "failed", str(self.supervisor.failure(managed))
            self.on_event(f"{progress.cell.name}: {progress.problem}")

    async def _end(self) -> None:
        supervisor = self.supervisor
        trainers = [managed.spec.name for managed in supervisor.of_role("trainer")]
        await supervisor.stop(trainers, TRAINER_GRACE_S)
        pods = [managed.spec.name for role in ("rollout", "teacher") for managed in supervisor.of_role(role)]
        await supervisor.stop(pods, POD_GRACE_S)
        await supervisor.stop([managed.spec.name for managed in supervisor.of_role("redis")], REDIS_GRACE_S)
        await supervisor.aclose()
        await self._reader.aclose()
        shutil.rmtree(self._weights, ignore_errors=True)
        for progress in self.cells:
            if progress.state == "running":
                progress.state = "waiting"
