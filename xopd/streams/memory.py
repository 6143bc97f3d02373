"""How much of Redis a run can take at most, and whether the server will keep it.

The trainer has at most (policy lag + 1) steps outstanding. A prompt is removed when it is answered, a trajectory when
a checkpoint holds its step. So at any moment there are at most

    prompts:       (lag + 1) · groups of a step
    trajectories:  (lag + 1 + checkpoint_every) · groups of a step

beside evaluations, whose answers are removed as they are read. Overhead is what a stream entry costs in Redis.
"""

from __future__ import annotations

from dataclasses import dataclass

import redis.asyncio as aioredis
from redis.exceptions import ResponseError

from xopd.config import Config
from xopd.config.redis import RedisSettings
from xopd.config.secrets import redact
from xopd.errors import UserError

VARINT_BYTES = 3
"""A token id below 2,097,152 as protobuf writes it."""
TOKEN_BYTES = VARINT_BYTES + 4 + VARINT_BYTES
"""A sampled token: its id, its float32 log-probability, its policy version."""
ENVELOPE_BYTES = 1024
"""Ids, clip reference, times and trace context of one message."""
TRAJECTORY_BYTES = 32
"""Index, seed and lengths of one trajectory."""
OVERHEAD = 1.5
"""A stream's nodes are allocated whole, and pending entries are listed once more."""


@dataclass(frozen=True)
class RedisCeiling:
    """The most entries and bytes of a run's streams."""

    prompts: int
    trajectories: int
    bytes: int


def redis_ceiling(config: Config) -> RedisCeiling:
    """The ceiling for training with this configuration."""
    both = 2 if 0.0 < config.objective.lambda_ < 1.0 else 1
    groups = config.trainer.batch_prompts * both
    outstanding = config.trainer.max_policy_lag + 1
    prompts = outstanding * groups
    trajectories = (outstanding + config.run.checkpoint_every) * groups
    samples, tokens = config.objective.samples, config.sampling.max_new_tokens
    prompt_bytes = ENVELOPE_BYTES + VARINT_BYTES * config.rollout.max_model_len + 5 * samples
    group_bytes = ENVELOPE_BYTES + samples * (TRAJECTORY_BYTES + tokens * TOKEN_BYTES)
    total = OVERHEAD * (prompts * prompt_bytes + trajectories * group_bytes)
    return RedisCeiling(prompts, trajectories, int(total))


KEEPS_ALL = "noeviction"
MB = 2**20


async def refuse_eviction(client: aioredis.Redis, settings: RedisSettings, needed: int = 0) -> None:
    """Refuse a server that may evict keys, or whose memory is smaller than the run needs.

    It is asked by INFO, which managed servers allow where they forbid CONFIG. What INFO does not tell, or may not be
    asked, is not judged.

    Args:
        client: connected to the server.
        settings: how, for the sentence.
        needed: the most that the run can take, as `redis_ceiling` has it (bytes); 0: the policy alone is judged.

    Raises:
        UserError: with what the server must be told.
    """
    try:
        memory = await client.info("memory")
    except ResponseError:
        return
    where = f"redis.url {redact(settings.url or '')}"
    policy = memory.get("maxmemory_policy")
    if isinstance(policy, str) and policy != KEEPS_ALL:
        # Leases and states expire, streams do not: volatile policies take the former alone.
        lost = "leases" if policy.startswith("volatile-") else "prompts, trajectories and leases"
        raise UserError(
            f"{where}: its maxmemory-policy is {policy}, so a server whose memory is full throws away {lost};"
            f" CONFIG SET maxmemory-policy {KEEPS_ALL}, and set it where the server's own configuration lies."
        )
    most = memory.get("maxmemory")
    if isinstance(most, int) and 0 < most < needed:
        raise UserError(
            f"{where}: its maxmemory is {most / MB:,.1f} MB, and this run can take {needed / MB:,.1f} MB;"
            f" CONFIG SET maxmemory {-(-needed // MB)}mb, or lower trainer.batch_prompts, trainer.max_policy_lag,"
            " run.checkpoint_every or objective.samples."
        )
