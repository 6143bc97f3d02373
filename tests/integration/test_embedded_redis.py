"""Work streams on a real server: the embedded Valkey, and the system's redis-server where there is one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio as aioredis

from xopd.config.schema import RedisSettings
from xopd.errors import UserError
from xopd.local.embedded_redis import EmbeddedServer, answers_ping, free_port
from xopd.streams import WorkStream, connect
from xopd.streams import connection as connection_module

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["valkey", "redis-server"], scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    binary = None
    if request.param == "redis-server":
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip("redis-server is not installed here")
    with EmbeddedServer(tmp_path_factory.mktemp("server"), binary=binary) as running:
        yield running


@pytest.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[aioredis.Redis]:
    client = await connect(RedisSettings(url=server.url))
    await client.flushall()
    yield client
    await client.aclose()


def consumer(client: aioredis.Redis, name: str) -> WorkStream:
    return WorkStream(client, "work", "group", name)


async def test_two_consumers_never_hold_the_same_entry(client):
    one, two = consumer(client, "one"), consumer(client, "two")
    await one.ensure_group()
    await two.ensure_group()
    await one.add([str(i).encode() for i in range(40)])
    taken = await asyncio.gather(one.read(25, 10), two.read(25, 10))
    everything = [claim.data for claims in taken for claim in claims]
    assert sorted(everything, key=int) == [str(i).encode() for i in range(40)]
    assert not any(claim.redelivered for claims in taken for claim in claims)
    assert await one.length() == 40


async def test_read_without_work_comes_back_empty(client):
    stream = consumer(client, "one")
    await stream.ensure_group()
    assert await stream.read(5, 20) == []


async def test_acknowledged_entries_are_gone(client):
    stream = consumer(client, "one")
    await stream.ensure_group()
    await stream.add([b"a", b"b"])
    claims = await stream.read(2, 10)
    await stream.acknowledge([claims[0].entry_id])
    assert await stream.length() == 1
    assert [claim.data for claim in await consumer(client, "two").take_over(0.0, 10)] == [b"b"]


async def test_only_silent_claims_are_taken_over(client):
    one, two = consumer(client, "one"), consumer(client, "two")
    await one.ensure_group()
    await one.add([b"a"])
    [claim] = await one.read(1, 10)
    assert await two.take_over(3600.0, 10) == []
    await one.give_back([claim])
    [taken] = await two.take_over(3600.0, 10)
    assert (taken.data, taken.redelivered) == (b"a", True)
    await two.renew([taken.entry_id])
    assert await one.take_over(3600.0, 10) == []


async def test_consumers_that_were_lost_with_an_entry_are_counted(client):
    one, two = consumer(client, "one"), consumer(client, "two")
    await one.ensure_group()
    await one.add([b"a"])
    [claim] = await one.read(1, 10)
    await one.lose(claim)
    [claim] = await two.take_over(3600.0, 10)
    assert claim.lost == 1
    await two.renew([claim.entry_id])  # a sign of life is no delivery
    for _ in range(3):
        await two.give_back([claim])  # nor does giving back count
        [claim] = await one.take_over(3600.0, 10)
        assert (claim.lost, claim.redelivered) == (1, True)
    [claim] = await two.take_over(0.0, 10)
    assert claim.lost == 2


async def test_an_answer_and_its_acknowledgement_go_together(client):
    one = consumer(client, "one")
    await one.ensure_group()
    await one.add([b"question"])
    [claim] = await one.read(1, 10)
    await one.answer(claim.entry_id, "answers", b"reply")
    answers = WorkStream(client, "answers", "trainer", "t")
    await answers.ensure_group()
    assert [claim.data for claim in await answers.read(5, 10)] == [b"reply"]
    assert await one.length() == 0
    assert await consumer(client, "two").take_over(0.0, 10) == []


async def test_a_server_that_comes_back_empty_is_no_error(client):
    stream = consumer(client, "one")
    await stream.ensure_group()
    await stream.add([b"a"])
    [claim] = await stream.read(1, 10)
    await client.flushall()
    await stream.renew([claim.entry_id])
    await stream.acknowledge([claim.entry_id])
    assert await stream.read(1, 10) == []
    assert await stream.take_over(0.0, 1) == []
    await stream.add([b"b"])
    assert [claim.data for claim in await stream.read(1, 10)] == [b"b"]


def test_data_survives_a_crash_and_a_new_start(tmp_path):
    async def _add(url: str) -> None:
        client = await connect(RedisSettings(url=url))
        stream = consumer(client, "one")
        await stream.ensure_group()
        await stream.add([b"a"])
        await client.aclose()

    async def _length(url: str) -> int:
        client = await connect(RedisSettings(url=url))
        length = await consumer(client, "one").length()
        await client.aclose()
        return length

    server = EmbeddedServer(tmp_path)
    with server:
        port = server.port
        asyncio.run(_add(server.url))
        server.stop()
        assert not answers_ping(port)
        server.start()
        assert server.port == port
        assert asyncio.run(_length(server.url)) == 1
        os.kill(server.pid, signal.SIGKILL)
        server.kill()
        server.start()
        assert answers_ping(port)


def test_a_taken_port_is_told_with_the_log(tmp_path):
    with (
        EmbeddedServer(tmp_path / "first") as first,
        pytest.raises(UserError, match=r"embedded Redis on port \d+ ended at once; its log is .*redis.log"),
    ):
        # Another server answers on that port, so only the second one's own end tells.
        EmbeddedServer(tmp_path / "second", port=first.port).start()


async def test_an_unreachable_server_is_one_sentence():
    url = f"redis://user:secret@127.0.0.1:{free_port()}/0"
    with pytest.raises(UserError) as caught:
        await connect(RedisSettings(url=url, connect_timeout_s=1.0))
    assert "cannot be reached" in str(caught.value)
    assert "start Redis there or correct the URL" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://x", "127.0.0.1:6379", ""])
async def test_what_is_no_redis_url_is_one_sentence(url):
    with pytest.raises(UserError, match=r"redis\.url"):
        await connect(RedisSettings(url=url))


async def test_a_server_too_old_is_refused(server, monkeypatch):
    monkeypatch.setattr(connection_module, "OLDEST", (99, 0))
    with pytest.raises(UserError, match=r"runs version \d+\.\d+.* is needed"):
        await connect(RedisSettings(url=server.url))
