"""A trainer that stands still: Redis fills up to what the arithmetic says, and no further."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
import redis

from tests.e2e.world import make_world
from xopd.config import load_config
from xopd.streams import Keys
from xopd.streams.memory import redis_ceiling

pytestmark = pytest.mark.timeout(600)
QUIET_S = 5.0
"""Redis holds all that the pods could put there once nothing has come for so long (seconds)."""


def test_a_stalled_trainer_leaves_redis_bounded(tmp_path, start, capsys):
    """Checkpoints are rare, so that trajectories pile up; then the trainer is frozen while the pods may go on."""
    path = make_world(tmp_path, run={"steps": 400, "checkpoint_every": 12}, evals={"every": 0}, rollout={"pods": 2})
    config = load_config(str(path))
    ceiling, keys = redis_ceiling(config), Keys(config.redis.prefix)
    run = start(path)
    run.wait_for_step(1)
    port = json.loads((run.folder / "processes" / "redis.json").read_text())["port"]
    client = redis.Redis(port=port)
    before = int(client.info("memory")["used_memory"])
    peak = {"prompts": 0, "trajectories": 0, "bytes": 0}

    def look() -> None:
        memory = sum(int(client.memory_usage(key, samples=0) or 0) for key in (keys.prompts, keys.trajectories))
        for name, value in (
            ("prompts", client.xlen(keys.prompts)),
            ("trajectories", client.xlen(keys.trajectories)),
            ("bytes", memory),
        ):
            peak[name] = max(peak[name], int(value))

    trainer = run.pid_of("trainer")
    while len(run.steps()) < 10:
        look()
        time.sleep(0.02)
    os.killpg(trainer, signal.SIGSTOP)
    try:
        settled, length = time.monotonic() + QUIET_S, -1
        while time.monotonic() < settled:
            look()
            if client.xlen(keys.trajectories) != length:
                length, settled = client.xlen(keys.trajectories), time.monotonic() + QUIET_S
            time.sleep(0.05)
        assert client.xpending(keys.prompts, "rollout")["pending"] == 0
    finally:
        os.killpg(trainer, signal.SIGCONT)
    while len(run.steps()) < 26:
        look()
        time.sleep(0.02)
    with capsys.disabled():
        print(
            f"\nRedis, peak against ceiling: {peak['prompts']} of {ceiling.prompts} prompts, {peak['trajectories']} of"
            f" {ceiling.trajectories} trajectory groups, {peak['bytes']:,} of {ceiling.bytes:,} bytes"
            f" (the server took {before:,} when empty)"
        )
    assert 0 < peak["prompts"] <= ceiling.prompts
    assert 10 * 8 <= peak["trajectories"] <= ceiling.trajectories
    assert peak["bytes"] <= ceiling.bytes
    client.close()
