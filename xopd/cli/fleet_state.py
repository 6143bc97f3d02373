"""What Redis knows of a run: RunInfo, the pods' heartbeats, and how much work waits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xopd.config.redis import RedisSettings
from xopd.errors import UserError
from xopd.streams.connection import connect
from xopd.streams.embedded import HOST
from xopd.streams.keys import Keys
from xopd.streams.work import FIELD
from xopd.v1 import weights_pb2 as pb
from xopd.wire import WireError, decode_pod_status, decode_run_info, decode_weight_manifest


@dataclass(frozen=True)
class FleetState:
    """One reading."""

    now: float
    """Seconds since the epoch."""
    run: pb.RunInfo | None
    pods: list[pb.PodStatus]
    prompts: int
    trajectories: int
    dead: int
    newest_version: int
    """Newest announced weight version, -1 for none."""


async def read_fleet(settings: RedisSettings) -> FleetState:
    """Read the state once.

    Raises:
        UserError: if Redis cannot be reached or is too old.
    """
    client = await connect(settings)
    keys = Keys(settings.prefix)
    try:
        raw_run: Any = await client.get(keys.run)
        pods = []
        async for key in client.scan_iter(match=keys.pods_pattern):
            pod = _decoded(decode_pod_status, await client.get(key))
            if pod is not None:
                pods.append(pod)
        newest: Any = await client.xrevrange(keys.weights, count=1)
        manifest = _decoded(decode_weight_manifest, newest[0][1].get(FIELD)) if newest else None
        prompts = int(await client.xlen(keys.prompts))
        trajectories = int(await client.xlen(keys.trajectories))
        dead = int(await client.xlen(keys.dead))
    finally:
        await client.aclose()
    version = -1 if manifest is None else manifest.version
    ordered = sorted(pods, key=lambda pod: pod.pod_id)
    return FleetState(time.time(), _decoded(decode_run_info, raw_run), ordered, prompts, trajectories, dead, version)


def redis_of_run(run: Path) -> str:
    """URL of the embedded Redis that `xopd up` runs for this run.

    Raises:
        UserError: if the run has none, or is not under way.
    """
    try:
        port = json.loads((run / "processes" / "redis.json").read_text(encoding="utf-8"))["port"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{run}: has no Redis of its own; give --set redis.url=redis://HOST:PORT.") from None
    return f"redis://{HOST}:{int(port)}/0"


def _decoded(decoder: Callable[[bytes], Any], data: Any) -> Any:
    if not isinstance(data, bytes):
        return None
    try:
        return decoder(data)
    except WireError:
        return None
