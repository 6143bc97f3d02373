"""The proxy lets everything pass until it is told not to."""

import asyncio

import pytest

from xopd.chaos.faults import draw_schedule
from xopd.chaos.proxy import FaultProxy
from xopd.local.embedded_redis import free_port


@pytest.fixture
async def echo():
    """(proxy, reader, writer) of a connection through the proxy to a server that echoes."""

    async def _echo(reader, writer):
        try:
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    proxy = FaultProxy(free_port(), server.sockets[0].getsockname())
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    yield proxy, reader, writer
    writer.close()
    await proxy.close()
    server.close()


async def said(reader, writer, words):
    writer.write(words)
    return await asyncio.wait_for(reader.readexactly(len(words)), 5)


async def test_it_forwards(echo):
    _, reader, writer = echo
    assert await said(reader, writer, b"hello") == b"hello"
    big = bytes(range(256)) * 4000
    assert await said(reader, writer, big) == big


async def test_a_reset_is_a_reset(echo):
    proxy, reader, writer = echo
    await said(reader, writer, b"hello")
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.readexactly(1), 5)
    again_reader, again = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await said(again_reader, again, b"again") == b"again"
    again.close()


async def test_a_stall_holds_everything_back_and_loses_nothing(echo):
    proxy, reader, writer = echo
    await said(reader, writer, b"hello")
    stalling = asyncio.create_task(proxy.stall(0.5))
    await asyncio.sleep(0.05)
    writer.write(b"late")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(4), 0.2)
    await stalling
    assert await asyncio.wait_for(reader.readexactly(4), 5) == b"late"


async def test_a_target_that_is_down_ends_the_connection():
    proxy = FaultProxy(free_port(), ("127.0.0.1", free_port()))
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await asyncio.wait_for(reader.read(1), 5) == b""
    writer.close()
    await proxy.close()


def test_a_seed_decides_the_schedule():
    one, same, other = (draw_schedule(seed, 600.0, 12.0) for seed in (1, 1, 2))
    assert one == same != other
    assert 30 < len(one) < 80
    assert all(5.0 <= a.at_s < 595.0 for a in one)
