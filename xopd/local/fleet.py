"""Which processes make up a run on this machine, and how each is started."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xopd.config import Config
from xopd.config.load import ENV_PREFIX
from xopd.config.secrets import read_secret, secret_variables
from xopd.errors import UserError
from xopd.files import write_whole
from xopd.local.embedded_redis import HOST, answers_ping, free_port, server_command, server_input
from xopd.local.rundir import RunFolder
from xopd.local.supervisor import ProcessSpec, python_module
from xopd.service.folders import VARIABLE

PACKAGES = {"teacher": "xopd_teacher", "rollout": "xopd_rollout", "trainer": "xopd_trainer"}
LAST_WORDS_S = 15.0
"""What a pod may take to end beyond the time for its accepted work (seconds)."""


@dataclass(frozen=True)
class Fleet:
    """Process specs by role; empty where the configuration names a service that runs elsewhere."""

    redis: tuple[ProcessSpec, ...]
    teachers: tuple[ProcessSpec, ...]
    pods: tuple[ProcessSpec, ...]
    trainer: ProcessSpec
    more: dict[str, Callable[[int], ProcessSpec]]
    """By role that can be scaled: makes the spec of number i, which has the same name and port each time."""
    grace_s: dict[str, float]
    """By such a role: longest time that a pod may take to leave (seconds)."""
    teacher_list: Path
    """File that lists the teachers' addresses for the trainer, one a line."""


def plan_fleet(config: Config, folder: RunFolder, resume: bool) -> Fleet:
    """Lay out the processes of a run; ports that others must know are chosen here, so a restart keeps them.

    Raises:
        UserError: if a service's package is not installed.
    """
    shared = secret_variables(config)
    redis: tuple[ProcessSpec, ...] = ()
    if config.redis.url is None:
        redis = (redis_spec(folder, config),)
        shared |= redis_variable(redis[0])

    @functools.cache
    def _teacher(index: int) -> ProcessSpec:
        return teacher_spec(f"teacher-{index}", config, folder, shared, index)

    def _pod(index: int) -> ProcessSpec:
        return pod_spec(index, config, folder, shared)

    more: dict[str, Callable[[int], ProcessSpec]] = {"rollout": _pod}
    teachers: tuple[ProcessSpec, ...] = ()
    endpoints: dict[str, str] = {}
    teacher_list = _absolute(folder.processes / "teachers")
    if not config.teacher.endpoints:
        more["teacher"] = _teacher
        teachers = (_teacher(0),)
        # A file, not the address: the trainer reads it again and again, so that `xopd scale` can add teachers.
        endpoints = {variable("teacher", "endpoints"): json.dumps([f"file:{teacher_list}"])}
        write_teacher_list(teacher_list, teachers)
    pods = tuple(_pod(index) for index in range(config.rollout.pods))
    trainer_env = {**shared, **endpoints, **threads_variable(config.trainer.threads)}
    trainer = trainer_spec(folder, trainer_env, resume)
    grace_s = {"rollout": config.rollout.drain_timeout_s + LAST_WORDS_S, "teacher": config.teacher.deadline_s}
    grace_s["teacher"] += LAST_WORDS_S
    return Fleet(redis, teachers, pods, trainer, more, grace_s, teacher_list)


def write_teacher_list(path: Path, teachers: Sequence[ProcessSpec]) -> None:
    """List the teachers' gRPC addresses for the trainer, whole or not at all."""
    write_whole(path, "".join(f"{teacher_address(spec)}\n" for spec in teachers))


def child_environment(scratch: Path) -> dict[str, str]:
    """The environment of every process; temporary files go to `scratch`.

    XOPD_ variables of the caller are left out: the run's config.yaml has them already, and --set must win over them.
    Secrets are not in that file; whoever starts a service adds them (`secret_variables`).
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    own = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", VARIABLE: str(scratch)}
    return {**inherited, **own}


def redis_spec(folder: RunFolder, config: Config) -> ProcessSpec:
    """The embedded Redis of a run, with the configuration's password if it has one; its port is chosen here."""
    password = read_secret("redis.password", config.redis.password, config.redis.password_file)
    data = (folder.path / "redis").resolve()
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    # For `xopd status`, which looks at a run from outside.
    (folder.processes / "redis.json").write_text(json.dumps({"port": port}), encoding="utf-8")

    async def _answers() -> bool:
        return await asyncio.to_thread(answers_ping, port, password=password)

    command, log = tuple(server_command(data, port)), folder.logs / "redis.log"
    return ProcessSpec("redis", "redis", command, log, stdin=server_input(password), probe=_answers)


def redis_variable(redis: ProcessSpec) -> dict[str, str]:
    """What tells a service where the embedded Redis is."""
    port = redis.argv[redis.argv.index("--port") + 1]
    return {variable("redis", "url"): f"redis://{HOST}:{port}/0"}


def teacher_spec(name: str, config: Config, folder: RunFolder, shared: dict[str, str], index: int = 0) -> ProcessSpec:
    """A teacher; number `index` of its model, where ports are configured."""
    settings = config.teacher
    own = {
        variable("teacher", "port"): str(settings.port + index if settings.port else free_port()),
        variable("teacher", "http_port"): str(settings.http_port + index if settings.http_port else 0),
        variable("teacher", "path"): settings.path,
    }
    return service_spec("teacher", name, folder, {**shared, **own, **threads_variable(settings.threads)})


def teacher_address(spec: ProcessSpec) -> str:
    """host:port of a teacher's gRPC service."""
    return f"{HOST}:{spec.env[variable('teacher', 'port')]}"


def pod_spec(index: int, config: Config, folder: RunFolder, shared: dict[str, str]) -> ProcessSpec:
    """Rollout pod number `index`."""
    name = f"rollout-{index}"
    port = config.rollout.port + index if config.rollout.port else 0
    own = {variable("rollout", "pod_id"): name, variable("rollout", "port"): str(port)}
    return service_spec("rollout", name, folder, {**shared, **own, **threads_variable(config.rollout.threads)})


def trainer_spec(folder: RunFolder, env: dict[str, str], resume: bool) -> ProcessSpec:
    """The trainer of a run; after a crash it goes on from its newest checkpoint."""
    resumed = service_spec("trainer", "trainer", folder, env, "--resume")
    first = resumed if resume else service_spec("trainer", "trainer", folder, env)
    return replace(first, argv_again=resumed.argv)


def service_spec(role: str, name: str, folder: RunFolder, env: dict[str, str], *arguments: str) -> ProcessSpec:
    """A service of `role` that reads the folder's configuration.

    Raises:
        UserError: if the service's package is not installed.
    """
    package = PACKAGES[role]
    if importlib.util.find_spec(package) is None or importlib.util.find_spec(f"{package}.__main__") is None:
        raise UserError(f"the package {package} is not installed: pip install ./services/{role}.")
    return ProcessSpec(
        name,
        role,
        python_module(package, "--config", str(folder.config), *arguments),
        folder.logs / f"{name}.log",
        env=env,
        address_file=_absolute(folder.processes / f"{name}.json"),
    )


def threads_variable(threads: int) -> dict[str, str]:
    """What keeps a service's libraries at so many threads."""
    return {"OMP_NUM_THREADS": str(threads)} if threads else {}


def variable(section: str, name: str) -> str:
    """The environment variable of a setting."""
    return f"{ENV_PREFIX}{section}__{name}".upper()


def _absolute(path: Path) -> Path:
    return path.resolve()
