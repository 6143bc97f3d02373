"""What several integration tests need: a teacher's checkpoint, and a trainer's end of the streams of a `world`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio as aioredis

from tests.integration.rollout_pod import StudentWorld, TrainerEnd
from tests.integration.teacher_process import Naive
from tests.random_models import make_teacher
from xopd.config.schema import RedisSettings
from xopd.streams import connect


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with random weights."""
    return make_teacher(tmp_path_factory.mktemp("models") / "teacher")


@pytest.fixture(scope="module")
def naive(checkpoint: Path) -> Naive:
    """What that teacher must answer."""
    return Naive(checkpoint)


@pytest.fixture
async def client(world: StudentWorld) -> AsyncIterator[aioredis.Redis]:
    """A connection to the module's server."""
    connection = await connect(RedisSettings(url=world.server.url))
    yield connection
    await connection.aclose()


@pytest.fixture
async def trainer(world: StudentWorld, client: aioredis.Redis) -> TrainerEnd:
    """A new run with version 0 published: the student's own weights."""
    end = TrainerEnd(client, world.folder / "weights", f"run-{uuid.uuid4().hex[:8]}")
    await client.delete(end.keys.run, end.keys.dead, end.keys.weights)
    await end.publish(0, world.trained())
    return end
