"""Will the server keep what a run puts there? Redis can be told to throw keys away when its memory is full."""

from __future__ import annotations

import redis.asyncio as aioredis
from redis.exceptions import ResponseError

from xopd.config.redis import RedisSettings
from xopd.config.secrets import redact
from xopd.errors import UserError

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
