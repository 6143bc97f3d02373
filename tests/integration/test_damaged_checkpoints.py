"""Services started on a damaged checkpoint: each ends at once, with the sentence that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.e2e.world import make_world
from tests.integration.test_mistakes import sentence
from xopd.local.embedded_redis import EmbeddedServer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4294967296\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("damaged"))


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pointed(path: Path) -> None:
    path.write_bytes(POINTER)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("service", "role", "file", "damage", "words"),
    [
        ("trainer", "student", "model.safetensors", cut, "model.safetensors: is cut short ("),
        ("rollout", "student", "model.safetensors", cut, "model.safetensors: is cut short ("),
        ("teacher", "teacher", "model.safetensors", cut, "model.safetensors: is cut short ("),
        ("rollout", "student", "model.safetensors", pointed, "model.safetensors: is a pointer of git-lfs"),
        ("teacher", "teacher", "config.json", pointed, "config.json: is a pointer of git-lfs"),
        ("trainer", "student", "config.json", emptied, "config.json: is empty"),
        ("rollout", "student", "config.json", cut, "config.json: is no JSON ("),
        ("teacher", "teacher", "tokenizer.json", cut, "its tokenizer cannot be loaded ("),
        ("trainer", "teacher", "tokenizer.json", cut, "its tokenizer cannot be loaded ("),
        ("rollout", "student", "tokenizer.json", pointed, "cannot be read ("),
    ],
)
def test_a_damaged_file(
    service: str, role: str, file: str, damage: Callable[[Path], None], words: str, world, redis_url, tmp_path
) -> None:
    folder = tmp_path / role
    shutil.copytree(world.parent / role, folder)
    damage(folder / file)
    sets = (f"{role}.path={folder}", f"run.directory={tmp_path / 'runs'}", f"redis.url={redis_url}")
    found = sentence(service, world, *sets)
    assert found.startswith(f"xopd: {role}.path {folder}") and words in found


def test_a_shard_that_was_forgotten(world, redis_url, tmp_path) -> None:
    folder = tmp_path / "student"
    shutil.copytree(world.parent / "student", folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / shard, metadata={"format": "pt"})
    index = {"weight_map": {name: shard for shard, own in shards.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-00002-of-00002.safetensors").unlink()
    found = sentence("rollout", world, f"student.path={folder}", f"redis.url={redis_url}")
    assert f"xopd: student.path {folder}/model-00002-of-00002.safetensors: is missing" in found
