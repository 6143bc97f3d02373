"""A server that would throw work away is refused, over a real one: by the function, by the trainer and by a pod."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis.asyncio as aioredis

from tests.e2e.world import make_world
from tests.integration.test_mistakes import sentence
from xopd.config import load_config
from xopd.config.redis import RedisSettings
from xopd.errors import UserError
from xopd.local.embedded_redis import EmbeddedServer
from xopd.streams import connect
from xopd.streams.memory import redis_ceiling, refuse_eviction

EVICTING = (
    "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl",
)  # fmt: skip
MB = 2**20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[aioredis.Redis]:
    client = await connect(RedisSettings(url=server.url))
    yield client
    await client.aclose()


@pytest.mark.parametrize("policy", EVICTING)
@pytest.mark.parametrize("maxmemory", ["0", "512mb"])
async def test_an_evicting_policy_is_refused(client, server, policy: str, maxmemory: str) -> None:
    await client.config_set("maxmemory-policy", policy)
    await client.config_set("maxmemory", maxmemory)
    with pytest.raises(UserError) as refused:
        await refuse_eviction(client, RedisSettings(url=server.url))
    lost = "leases" if policy.startswith("volatile") else "prompts, trajectories and leases"
    assert str(refused.value) == (
        f"redis.url {server.url}: its maxmemory-policy is {policy}, so a server whose memory is full throws away"
        f" {lost}; CONFIG SET maxmemory-policy noeviction, and set it where the server's own configuration lies."
    )
    await client.config_set("maxmemory-policy", "noeviction")  # what the sentence says helps
    await refuse_eviction(client, RedisSettings(url=server.url))


async def test_memory_is_held_against_what_the_run_needs(client, server) -> None:
    settings = RedisSettings(url=server.url)
    for limit, needed in (("0", 10**12), ("64mb", 64 * MB), ("64mb", 0), ("65mb", 64 * MB)):
        await client.config_set("maxmemory", limit)
        await refuse_eviction(client, settings, needed)
    await client.config_set("maxmemory", "64mb")
    with pytest.raises(UserError) as refused:
        await refuse_eviction(client, settings, 64 * MB + 1)
    assert "its maxmemory is 64.0 MB, and this run can take 64.0 MB; CONFIG SET maxmemory 65mb" in str(refused.value)
    await client.config_set("maxmemory", "65mb")
    await refuse_eviction(client, settings, 64 * MB + 1)


async def test_a_server_that_may_not_be_asked_is_not_judged(client, server) -> None:
    await client.config_set("maxmemory-policy", "allkeys-lru")
    await client.execute_command("ACL SETUSER runner on >secret ~* +@all -info")
    user = aioredis.Redis.from_url(server.url, username="runner", password="secret")
    await refuse_eviction(user, RedisSettings(url=server.url), 10**12)
    # Managed servers forbid CONFIG and allow INFO.
    await client.execute_command("ACL SETUSER runner +info -config")
    with pytest.raises(UserError, match="allkeys-lru"):
        await refuse_eviction(user, RedisSettings(url=server.url))
    await user.aclose()


async def test_a_url_is_told_without_its_user(client) -> None:
    await client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(UserError, match=r"^redis\.url redis://…@host/0: its"):
        await refuse_eviction(client, RedisSettings(url="redis://name@host/0"))


# The services.


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("eviction"))


@pytest.mark.parametrize("service", ["trainer", "rollout"])
async def test_a_service_ends_with_the_sentence(service: str, world: Path, server, client, tmp_path: Path) -> None:
    await client.config_set("maxmemory-policy", "allkeys-lru")
    found = sentence(service, world, f"redis.url={server.url}", f"run.directory={tmp_path / 'runs'}")
    assert found.startswith(f"xopd: redis.url {server.url}: its maxmemory-policy is allkeys-lru")
    assert await client.dbsize() == 0  # nothing was put there


async def test_the_trainer_ends_where_memory_is_too_small(world: Path, server, client, tmp_path: Path) -> None:
    needed = redis_ceiling(load_config(world)).bytes
    await client.config_set("maxmemory", needed - 1)
    found = sentence("trainer", world, f"redis.url={server.url}", f"run.directory={tmp_path / 'runs'}")
    assert f"this run can take {needed / MB:,.1f} MB" in found
