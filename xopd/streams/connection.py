"""Open a Redis connection, or say in one sentence why that failed."""

from __future__ import annotations

import re

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError

from xopd.config.schema import RedisSettings
from xopd.errors import UserError

OLDEST = (6, 2)
"""Oldest server version with XAUTOCLAIM."""


def shown_url(url: str) -> str:
    """A Redis URL without its user and password."""
    return re.sub(r"//[^@/]*@", "//…@", url)


async def connect(settings: RedisSettings) -> aioredis.Redis:
    """Connect and check the server's version.

    The client retries each command on a lost connection with jittered back-off; commands used here are idempotent
    or deduplicated by their reader.

    Raises:
        UserError: if the server cannot be reached, wants a password, or is too old.
    """
    if not settings.url:
        raise UserError("redis.url is empty: give --set redis.url=redis://HOST:PORT, or start the run with `xopd up`.")
    shown = shown_url(settings.url)
    try:
        client: aioredis.Redis = aioredis.Redis.from_url(
            settings.url,
            socket_connect_timeout=settings.connect_timeout_s,
            socket_timeout=settings.connect_timeout_s + 30,
            health_check_interval=15,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=2.0), retries=6),
        )
        about = await client.info("server")
    except ValueError as error:
        raise UserError(f"redis.url {shown}: is not a Redis URL ({error}); write redis://HOST:PORT.") from None
    except (RedisError, OSError) as error:
        raise UserError(
            f"redis.url {shown}: cannot be reached ({error}); start Redis there or correct the URL."
        ) from None
    # Valkey reports its own version beside the Redis version that it is compatible with.
    found = str(about.get("valkey_version") or about["redis_version"])
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        await client.aclose()
        raise UserError(f"redis.url {shown}: runs version {found}; 6.2 or newer is needed (XAUTOCLAIM).")
    return client
