"""One trainer at a time: the folder's lock, and the lease over a real server."""

import asyncio

import pytest
import redis.asyncio as aioredis
from xopd_trainer.state.lease import LeaseLostError, TrainerLease, locked_folder

from xopd.errors import UserError
from xopd.local.embedded_redis import EmbeddedServer
from xopd.service.lifecycle import end_tasks
from xopd.streams import Keys

KEYS = Keys("t")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
async def client(server):
    connected = aioredis.Redis.from_url(server.url)
    await connected.flushall()
    yield connected
    await connected.aclose()


async def test_a_second_trainer_is_refused_while_the_first_renews(client):
    first, second = (TrainerLease(client, KEYS, name, 0.6) for name in ("run-1", "run-2"))
    await first.acquire(())
    keeping = asyncio.create_task(first.keep())
    with pytest.raises(UserError, match="the trainer of run run-1 leads the pods there"):
        await second.acquire(())
    await end_tasks([keeping])
    await second.acquire(())  # the first went silent: its lease ran out


async def test_an_earlier_life_of_the_same_run_is_not_waited_for(client):
    await TrainerLease(client, KEYS, "run-life-1", 3600.0).acquire(())
    await TrainerLease(client, KEYS, "run-life-2", 3600.0).acquire({"run-life-1"})
    assert await client.get(KEYS.trainer) == b"run-life-2"


async def test_one_that_was_stopped_too_long_writes_nothing(client):
    """The first wakes up after the second has taken over: neither its renewal nor its writing goes through."""
    first, second = (TrainerLease(client, KEYS, name, 0.3) for name in ("run-1", "run-2"))
    await first.acquire(())
    await asyncio.sleep(0.5)
    second.lease_s = 60.0
    await second.acquire(())
    await second.write(KEYS.run, b"second")
    with pytest.raises(LeaseLostError, match="run-2 leads the pods now"):
        await first.write(KEYS.run, b"first")
    with pytest.raises(LeaseLostError, match="run-2 leads the pods now"):
        await asyncio.wait_for(first.keep(), 5)
    await first.release()
    assert await client.get(KEYS.run) == b"second"
    assert await client.get(KEYS.trainer) == b"run-2"


async def test_a_lease_that_redis_forgot_is_taken_again(client):
    lease = TrainerLease(client, KEYS, "run-1", 0.3)
    await lease.acquire(())
    await client.flushall()
    await lease.write(KEYS.run, b"ours")
    assert await client.get(KEYS.run) == b"ours"
    await lease.release()
    assert await client.get(KEYS.trainer) is None


def test_a_folder_has_one_trainer(tmp_path):
    with (
        locked_folder(tmp_path / "run"),
        pytest.raises(UserError, match="another trainer is at work"),
        locked_folder(tmp_path / "run"),
    ):
        pass
    with locked_folder(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"), locked_folder(tmp_path / "file" / "run"):
        pass
