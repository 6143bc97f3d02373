"""What Redis knows of a run: RunInfo, what the trainer and the pods say of themselves, and how much work waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis.asyncio as aioredis
from pydantic import ValidationError
from redis.exceptions import RedisError

from xopd.config.redis import RedisSettings
from xopd.config.secrets import redact
from xopd.errors import UserError
from xopd.status.model import PodStatus, RunStatus, plain
from xopd.streams.connection import connect
from xopd.streams.keys import ROLLOUT_GROUP, Keys
from xopd.streams.work import FIELD
from xopd.v1 import weights_pb2 as pb
from xopd.wire import WireError, decode_pod_status, decode_run_info, decode_weight_manifest

T = TypeVar("T")
READ_TIMEOUT_S = 10.0
SILENT_S = 10.0
"""A pod whose newest heartbeat is older is called silent, until its key expires (seconds)."""
KEYS_SCANNED = 20_000
"""Most keys looked at to find runs under other prefixes: a shared server may hold many."""


@dataclass(frozen=True)
class FleetState:
    """One reading."""

    redis: str
    """URL without its password."""
    prefix: str
    now: float
    """Seconds since the epoch, by Redis's clock."""
    run: pb.RunInfo | None = None
    trainer: RunStatus | None = None
    """What the trainer of this run said last; None where it has been silent for long."""
    pods: list[PodStatus] = field(default_factory=list)
    prompts: int = 0
    claimed: int = 0
    """Prompt groups in a pod's hands, among `prompts`."""
    trajectories: int = 0
    dead: int = 0
    newest_version: int = -1
    """Newest announced weight version, -1 for none."""

    def age(self, then: float) -> float:
        """Seconds since `then`; clocks of two machines may differ, so never below 0."""
        return max(0.0, self.now - then)

    def sentences(self) -> list[str]:
        """What a person should know beside the figures."""
        said = []
        if self.run is None:
            said.append(f"No run is under way: the key {self.prefix}:run is not there; start a trainer.")
        elif self.run.finished:
            said.append("The run has reached its end; pods may go.")
        elif self.trainer is None:
            said.append(
                "The trainer is silent: it was stopped or killed, or does not reach Redis; see its log, then start it"
                " with --resume."
            )
        if not self.pods and not (self.run is not None and self.run.finished):
            said.append("No rollout pod has a heartbeat; start one, or see why it does not reach this Redis.")
        said += [
            f"{pod.pod_id} has been silent for {pod.beat_age_s:.0f} s: it hangs or has died."
            for pod in self.pods
            if pod.beat_age_s > SILENT_S
        ]
        if self.trainer is not None:
            lost = self.trainer.accounts.lost
            if lost:
                said.append(f"{lost} trajectories are lost, which must not be: see `xopd audit`.")
            out = [teacher for teacher in self.trainer.teachers if not teacher.ok]
            said += [f"Teacher {teacher.endpoint} gets no calls: {teacher.problem}." for teacher in out]
        if self.dead:
            said.append(f"{self.dead} entries could not be used: XRANGE {self.prefix}:dead - + gives the reasons.")
        return said

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs; ages in seconds."""
        trainer = None if self.trainer is None else self.trainer.model_dump(mode="json", exclude={"pods"})
        return {
            "redis": self.redis,
            "prefix": self.prefix,
            "read_at": self.now,
            "run": None if self.run is None else plain(self.run),
            "trainer": trainer,
            "teachers": [] if trainer is None else trainer.pop("teachers"),
            "pods": [pod.model_dump(mode="json") for pod in self.pods],
            "queues": {
                "prompts": self.prompts,
                "claimed_prompts": self.claimed,
                "trajectories": self.trajectories,
                "dead": self.dead,
            },
            "newest_version": self.newest_version,
            "sentences": self.sentences(),
        }


class FleetReader:
    """Reads the state again and again over one connection; an async context manager."""

    def __init__(self, settings: RedisSettings) -> None:
        """Connect to nothing yet."""
        self.settings = settings
        self.keys = Keys(settings.prefix)
        self._client: aioredis.Redis | None = None

    async def __aenter__(self) -> FleetReader:
        """Connect. Raises UserError if Redis cannot be reached or is too old."""
        self._client = await connect(self.settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        if self._client is not None:
            await self._client.aclose()

    async def read(self) -> FleetState:
        """Read the state once.

        Raises:
            UserError: if Redis does not answer, or holds nothing of a run under the prefix.
        """
        assert self._client is not None
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                state = await self._read(self._client)
                if state.run is None and not state.pods and not state.prompts:
                    raise await self._nothing_there(self._client)
                return state
        except (RedisError, OSError, TimeoutError) as error:
            why = str(error) or f"no answer within {READ_TIMEOUT_S:g} s"
            raise UserError(f"redis.url {self._shown}: does not answer ({why}); see that it runs.") from None

    @property
    def _shown(self) -> str:
        return redact(self.settings.url or "")

    async def _read(self, client: aioredis.Redis) -> FleetState:
        keys = self.keys
        pipe = client.pipeline(transaction=False)
        pipe.time()
        pipe.mget(keys.run, keys.status)
        pipe.xrevrange(keys.weights, count=1)
        for stream in (keys.prompts, keys.trajectories, keys.dead):
            pipe.xlen(stream)
        # Without a trainer there is no consumer group, which is an error of this one command only.
        pipe.xpending(keys.prompts, ROLLOUT_GROUP)
        now, values, newest, *lengths, pending = await pipe.execute(raise_on_error=False)
        for answer in (now, values, newest, *lengths):
            if isinstance(answer, Exception):
                raise answer
        run, trainer = _decoded(decode_run_info, values[0]), _decoded(RunStatus.model_validate_json, values[1])
        if trainer is not None and (run is None or trainer.run_id != run.run_id):
            trainer = None  # an earlier life's
        read_at = now[0] + now[1] / 1e6
        manifest = _decoded(decode_weight_manifest, newest[0][1].get(FIELD)) if newest else None
        return FleetState(
            redis=self._shown,
            prefix=self.settings.prefix,
            now=read_at,
            run=run,
            trainer=trainer,
            pods=await read_pods(client, keys, read_at),
            prompts=int(lengths[0]),
            claimed=0 if isinstance(pending, Exception) else int(pending["pending"]),
            trajectories=int(lengths[1]),
            dead=int(lengths[2]),
            newest_version=-1 if manifest is None else manifest.version,
        )

    async def _nothing_there(self, client: aioredis.Redis) -> UserError:
        suffix = self.keys.run.removeprefix(self.settings.prefix)
        found: set[str] = set()
        cursor: Any = 0
        for _ in range(KEYS_SCANNED // 1000):
            reply: Any = await client.scan(cursor, match=f"*{suffix}", count=1000)
            cursor, names = reply
            found |= {name.decode(errors="replace").removesuffix(suffix) for name in names}
            if cursor == 0:
                break
        others = f" (there are runs under: {', '.join(sorted(found)[:5])})" if found else ""
        return UserError(
            f"redis.url {self._shown}: knows no run and no pod under the prefix {self.settings.prefix!r}{others};"
            " give the run's with --prefix, or start it."
        )


async def read_pods(client: aioredis.Redis, keys: Keys, now: float) -> list[PodStatus]:
    """The rollout pods with a live heartbeat, by name; `now` is the time (epoch). Raises RedisError or OSError."""
    names = [name async for name in client.scan_iter(match=keys.pods_pattern, count=1000)]
    values: list[Any] = await client.mget(names) if names else []
    beats = [beat for value in values if (beat := _decoded(decode_pod_status, value)) is not None]
    return sorted((PodStatus.of(beat, now) for beat in beats), key=lambda pod: pod.pod_id)


def _decoded(decoder: Callable[[bytes], T], data: Any) -> T | None:
    """What `data` says; None where there is none, or it cannot be read."""
    try:
        return decoder(data) if isinstance(data, bytes) else None
    except (WireError, ValidationError):
        return None
