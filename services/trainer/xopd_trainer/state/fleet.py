"""Which rollout pods there are, from their heartbeats, and which engines the run used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from xopd.streams import Keys
from xopd.wire import WireError, decode_pod_status


async def read_pods(client: aioredis.Redis, keys: Keys) -> list[dict[str, Any]]:
    """Pods with a live heartbeat, by name; empty while Redis cannot be reached."""
    try:
        names = [name async for name in client.scan_iter(match=keys.pods_pattern, count=1000)]
        values: list[Any] = await client.mget(names) if names else []
    except (RedisError, OSError):
        return []
    pods = []
    for value in values:
        if value is None:
            continue
        try:
            pod = decode_pod_status(value)
        except WireError:
            continue
        pods.append(
            {
                "pod_id": pod.pod_id,
                "policy_version": pod.policy_version,
                "in_flight": pod.in_flight_groups,
                "url": pod.url,
                "engine": pod.engine,
                "engine_version": pod.engine_version,
                "beat_age_s": max(0.0, time.time() - pod.beat_at),
                "draining": pod.draining,
            }
        )
    return sorted(pods, key=lambda pod: str(pod["pod_id"]))


def engines(pods: Sequence[dict[str, Any]], teachers: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Names and versions of the engines, such as `vllm 0.32.0`; several are joined."""
    rollout = sorted({f"{pod['engine']} {pod['engine_version']}" for pod in pods})
    teacher = sorted({str(about["engine"]) for about in teachers if about.get("engine")})
    return {"rollout": ", ".join(rollout), "teacher": ", ".join(teacher)}
