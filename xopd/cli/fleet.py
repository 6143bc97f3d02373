"""Which processes make up a run on this machine, and how each is started."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from xopd.cli.rundir import RunFolder
from xopd.config import Config
from xopd.config.load import ENV_PREFIX
from xopd.errors import UserError
from xopd.service.supervisor import ProcessSpec, python_module
from xopd.streams.embedded import HOST, answers_ping, free_port, server_command

PACKAGES = {"teacher": "xopd_teacher", "rollout": "xopd_rollout", "trainer": "xopd_trainer"}


@dataclass(frozen=True)
class Fleet:
    """Process specs by role; empty where the configuration names a service that runs elsewhere."""

    redis: tuple[ProcessSpec, ...]
    teachers: tuple[ProcessSpec, ...]
    pods: tuple[ProcessSpec, ...]
    trainer: ProcessSpec
    names: dict[str, list[str]] = field(default_factory=dict)


def plan_fleet(config: Config, folder: RunFolder, resume: bool) -> Fleet:
    """Lay out the processes of a run; ports that others must know are chosen here, so a restart keeps them.

    Raises:
        UserError: if a service's package is not installed.
    """
    shared: dict[str, str] = {}
    redis: tuple[ProcessSpec, ...] = ()
    if config.redis.url is None:
        redis = (_redis(folder),)
        shared[_variable("redis", "url")] = f"redis://{HOST}:{redis[0].argv[redis[0].argv.index('--port') + 1]}/0"
    teachers: tuple[ProcessSpec, ...] = ()
    endpoints: dict[str, str] = {}
    if not config.teacher.endpoints:
        port = config.teacher.port or free_port()
        teacher_env = {_variable("teacher", "port"): str(port), **_threads(config.teacher.threads)}
        teachers = (_service("teacher", "teacher-0", folder, {**shared, **teacher_env}),)
        endpoints[_variable("teacher", "endpoints")] = json.dumps([f"{HOST}:{port}"])
    pods = tuple(_pod(index, config, folder, shared) for index in range(config.rollout.pods))
    trainer_env = {**shared, **endpoints, **_threads(config.trainer.threads)}
    trainer = _service("trainer", "trainer", folder, trainer_env, *(["--resume"] if resume else []), restart=False)
    names = {
        "redis": [spec.name for spec in redis],
        "teacher": [spec.name for spec in teachers],
        "rollout": [spec.name for spec in pods],
        "trainer": [trainer.name],
    }
    return Fleet(redis, teachers, pods, trainer, names)


def child_environment() -> dict[str, str]:
    """The environment of every process.

    XOPD_ variables of the caller are left out: the run's config.yaml has them already, and --set must win over them.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return {**inherited, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def _redis(folder: RunFolder) -> ProcessSpec:
    data = (folder.path / "redis").resolve()
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    # For `xopd status`, which looks at a run from outside.
    (folder.processes / "redis.json").write_text(json.dumps({"port": port}), encoding="utf-8")

    async def _answers() -> bool:
        return await asyncio.to_thread(answers_ping, port)

    return ProcessSpec("redis", "redis", tuple(server_command(data, port)), folder.logs / "redis.log", probe=_answers)


def _pod(index: int, config: Config, folder: RunFolder, shared: dict[str, str]) -> ProcessSpec:
    name = f"rollout-{index}"
    port = config.rollout.port + index if config.rollout.port else 0
    own = {_variable("rollout", "pod_id"): name, _variable("rollout", "port"): str(port)}
    return _service("rollout", name, folder, {**shared, **own, **_threads(config.rollout.threads)})


def _service(
    role: str, name: str, folder: RunFolder, env: dict[str, str], *arguments: str, restart: bool = True
) -> ProcessSpec:
    package = PACKAGES[role]
    if importlib.util.find_spec(package) is None or importlib.util.find_spec(f"{package}.__main__") is None:
        raise UserError(f"the package {package} is not installed: pip install ./services/{role}.")
    return ProcessSpec(
        name,
        role,
        python_module(package, "--config", str(folder.config), *arguments),
        folder.logs / f"{name}.log",
        env=env,
        restart=restart,
        address_file=_absolute(folder.processes / f"{name}.json"),
    )


def _threads(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads)} if threads else {}


def _variable(section: str, name: str) -> str:
    return f"{ENV_PREFIX}{section}__{name}".upper()


def _absolute(path: Path) -> Path:
    return path.resolve()
