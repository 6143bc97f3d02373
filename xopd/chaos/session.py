"""An `xopd up` under faults: the same processes, with proxies before Redis and the teacher, disturbed at work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

from xopd.chaos.proxy import FaultProxy
from xopd.chaos.system import System
from xopd.config import Config
from xopd.local.embedded_redis import HOST, free_port
from xopd.local.fleet import Fleet, variable
from xopd.local.rundir import RunFolder
from xopd.local.session import Session
from xopd.local.supervisor import ProcessSpec, Supervisor
from xopd.local.view import View
from xopd.security import read_credentials
from xopd.service.lifecycle import end_tasks

Disturb = Callable[[System], Awaitable[None]]


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
