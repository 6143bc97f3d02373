"""Open a Redis connection, or say in one sentence why that failed."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from xopd.config.redis import RedisSettings
from xopd.config.secrets import read_secret, redact
from xopd.errors import UserError
from xopd.security.diagnosis import tls_trouble
from xopd.security.tls import OLDEST as OLDEST_TLS
from xopd.security.tls import Certificate, client_context, server_context

OLDEST = (6, 2)
"""Oldest server version with XAUTOCLAIM."""


async def connect(settings: RedisSettings) -> aioredis.Redis:
    """Connect and check the server's version.

    The client retries each command on a lost connection with jittered back-off; commands used here are idempotent
    or deduplicated by their reader.

    Raises:
        UserError: if the server cannot be reached, refuses the password, speaks TLS at one side only, or is too old.
    """
    if not settings.url:
        raise UserError("redis.url is empty: give --set redis.url=redis://HOST:PORT, or start the run with `xopd up`.")
    shown = redact(settings.url)
    password = read_secret("redis.password", settings.password, settings.password_file)
    try:
        client: aioredis.Redis = aioredis.Redis.from_url(
            settings.url,
            password=password,
            **_tls(settings),
            socket_connect_timeout=settings.connect_timeout_s,
            socket_timeout=settings.connect_timeout_s + 30,
            health_check_interval=15,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=2.0), retries=6),
        )
        about = await client.info("server")
    except ValueError as error:
        raise UserError(f"redis.url {shown}: is not a Redis URL ({error}); write redis://HOST:PORT.") from None
    except (AuthenticationError, NoPermissionError) as error:
        what = "wants a password" if password is None else f"refuses the password ({error})"
        raise UserError(
            f"redis.url {shown}: {what}; give the server's own as the variable XOPD_REDIS__PASSWORD, or its file as"
            " redis.password_file."
        ) from None
    except (RedisError, OSError) as error:
        trouble = await _tls_trouble(settings)
        if trouble is not None:
            raise UserError(f"redis.url {shown}: {trouble}.") from None
        raise UserError(
            f"redis.url {shown}: cannot be reached ({error}); start Redis there or correct the URL."
        ) from None
    # Valkey reports its own version beside the Redis version that it is compatible with.
    found = str(about.get("valkey_version") or about["redis_version"])
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        await client.aclose()
        raise UserError(f"redis.url {shown}: runs version {found}; 6.2 or newer is needed (XAUTOCLAIM).")
    return client


def _tls(settings: RedisSettings) -> dict[str, Any]:
    """What redis-py is told of TLS. Raises UserError for a file that cannot be used."""
    assert settings.url is not None
    if not settings.url.startswith("rediss://"):
        return {}
    if settings.tls_ca is not None:
        client_context(settings.tls_ca, "redis.tls_ca")
    if settings.tls_cert is not None and settings.tls_key is not None:
        server_context(Certificate(settings.tls_cert, settings.tls_key), "redis")
    return {
        "ssl_ca_certs": settings.tls_ca,
        "ssl_certfile": settings.tls_cert,
        "ssl_keyfile": settings.tls_key,
        "ssl_min_version": OLDEST_TLS,
    }


async def _tls_trouble(settings: RedisSettings) -> str | None:
    parts = urlsplit(settings.url or "")
    if parts.hostname is None:
        return None
    shown = (settings.tls_cert, settings.tls_key) if settings.tls_cert and settings.tls_key else None
    return await tls_trouble(
        parts.hostname,
        parts.port or 6379,
        name=parts.hostname,
        authorities=settings.tls_ca,
        setting="redis.tls_ca" if parts.scheme == "rediss" else "a rediss:// URL",
        certificate=shown,
        system=parts.scheme == "rediss",
    )
