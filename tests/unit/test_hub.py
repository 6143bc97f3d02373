"""Checkpoints by hub id: what is fetched and what is not, from which commit, and each mistake in one sentence."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save

from tests.e2e.world import make_world
from tests.hub_server import COMMIT, OLDER, TOKEN, Hub, Repository
from xopd.config import Config
from xopd.config.checkpoints import HubId, checkpoint_name, read_hub_id
from xopd.config.yaml12 import read_yaml
from xopd.errors import UserError
from xopd.families.download import Progress
from xopd.families.hub import Checkpoints, Found, find_checkpoint, resolve_checkpoint
from xopd.local.fetching import fetch_checkpoints

NAME = "org/name"
SETTING = "student.path"


def shard(tensor: str, size: int = 4) -> bytes:
    return save({tensor: np.zeros(size, np.float32)})


INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
NEEDED = {
    "config.json": b'{"model_type": "qwen2"}',
    "tokenizer.json": b"{}",
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
}
SHARDS = {"model-1.safetensors": shard("a"), "model-2.safetensors": shard("b")}
OTHERS = {
    "README.md": b"about",
    "modeling.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "optimizer.pt": b"pickle",
    "consolidated.safetensors": shard("a"),
    "extra.safetensors": shard("c"),
    "onnx/config.json": b"{}",
    "original/model.safetensors": shard("d"),
}
FILES = {**NEEDED, **SHARDS, **OTHERS}
SINGLE = {"config.json": b'{"model_type": "qwen2", "older": true}', "model.safetensors": shard("a")}


@pytest.fixture
def hub() -> Iterator[Hub]:
    public = Repository({COMMIT: FILES, OLDER: SINGLE}, {"main": COMMIT, "v1": OLDER})
    served = Hub(
        {
            NAME: public,
            "org/pickles": Repository({COMMIT: {"config.json": b"{}", "pytorch_model.bin": b"pickle"}}),
            **{f"org/{access}": Repository({COMMIT: FILES}, access=access) for access in ("private", "gated")},
            **{f"org/{access}": Repository({COMMIT: FILES}, access=access) for access in ("denied", "broken")},
        }
    )
    yield served
    served.close()


@dataclass
class Client:
    """Resolves checkpoints in processes of their own: the library reads its environment when it is imported."""

    hub: Hub
    home: Path

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XOPD_"))}
        own = {"HF_HOME": str(self.home), "HF_ENDPOINT": self.hub.url, "HF_HUB_OFFLINE": "0"}
        return {**kept, **own, "HF_HUB_DISABLE_TELEMETRY": "1", **more}

    def run(self, code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", HEAD + code, *arguments]
        return subprocess.run(
            command, env=self.environment(**environment), capture_output=True, text=True, timeout=50, check=False
        )

    def resolve(self, value: str, **environment: str) -> Path:
        done = self.run("print(resolve_checkpoint('student.path', sys.argv[1]))", value, **environment)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def sentence(self, value: str, **environment: str) -> str:
        done = self.run("resolve_checkpoint('student.path', sys.argv[1])", value, **environment)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.strip()


HEAD = """
import sys
from xopd.cli.main import print_failure
from xopd.errors import UserError
from xopd.families.download import Lines
from xopd.families.hub import find_checkpoint, resolve_checkpoint
def ended(kind, error, trace):
    if not issubclass(kind, UserError):
        sys.__excepthook__(kind, error, trace)
        sys.exit(1)
    sys.stderr.write(f"{error}\\n")
    sys.stderr.flush()
    __import__("os")._exit(2)
sys.excepthook = ended
"""


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "home")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_needed_is_fetched_and_nothing_else(client):
    folder = client.resolve(NAME)
    assert folder == client.home / "hub" / "models--org--name" / "snapshots" / COMMIT
    assert contents(folder) == {**NEEDED, **SHARDS}
    assert client.hub.fetched() == {*NEEDED, *SHARDS}
    assert checkpoint_name(str(folder)) == f"{NAME}@{COMMIT}"


def test_a_second_time_comes_from_the_cache(client):
    first = client.resolve(NAME)
    client.hub.asked.clear()
    assert client.resolve(NAME) == first
    assert client.hub.asked == [("GET", f"/api/models/{NAME}")]  # which commit is `main`?
    client.hub.asked.clear()
    assert client.resolve(f"{NAME}@{COMMIT}") == first
    for value in (NAME, f"{NAME}@{COMMIT}"):
        assert client.resolve(value, HF_HUB_OFFLINE="1") == first
    assert client.hub.asked == []


def test_a_revision_is_resolved_to_its_commit(client):
    for revision in ("v1", OLDER):
        folder = client.resolve(f"{NAME}@{revision}")
        assert folder.name == OLDER
        assert contents(folder) == SINGLE


def test_the_small_files_alone(client):
    done = client.run("print(find_checkpoint('student.path', sys.argv[1]))", NAME)
    folder = client.home / "hub" / "models--org--name" / "snapshots" / COMMIT
    size = sum(len(data) for data in SHARDS.values())
    assert done.stdout.strip() == str(Found(folder, HubId(NAME, COMMIT), tuple(sorted(SHARDS)), size))
    assert contents(folder) == NEEDED
    code = "print(resolve_checkpoint('student.path', sys.argv[1], weights=False))"
    client.hub.asked.clear()
    assert client.run(code, NAME, HF_HUB_OFFLINE="1").stdout.strip() == str(folder)
    # What is half there is not taken for the whole.
    assert "does not hold all of it" in client.sentence(NAME, HF_HUB_OFFLINE="1")
    assert client.hub.asked == []


def test_progress_in_lines(client):
    done = client.run("resolve_checkpoint('student.path', sys.argv[1], Lines(print))", NAME)
    source = f"{NAME}@{COMMIT}"
    assert done.stdout.splitlines() == [f"fetching {source}: 1 kB", f"fetched {source}: 1 kB of 1 kB"]


def test_the_token_opens_what_is_private_and_what_is_gated(client):
    for access in ("private", "gated"):
        assert client.resolve(f"org/{access}", HF_TOKEN=TOKEN).name == COMMIT


@pytest.mark.parametrize(
    ("value", "environment", "clause"),
    [
        (
            "org/none",
            {},
            "org/none: there is no such folder, and {url} has no such repository that can be read without a token;"
            " correct the name, or set HF_TOKEN.",
        ),
        (
            "org/none",
            {"HF_TOKEN": TOKEN},
            "org/none: there is no such folder, and {url} has no such repository that the token may read; correct the"
            " name, or set HF_TOKEN to a token that may.",
        ),
        ("org/private", {}, "org/private: there is no such folder, and {url} has no such repository that can be read"),
        (NAME, {"HF_TOKEN": "hf_wrong"}, "org/name: {url} does not accept the token; correct HF_TOKEN."),
        (
            "org/gated",
            {},
            "org/gated: is gated; accept its terms at {url}/org/gated, and set HF_TOKEN to a token of that account.",
        ),
        ("org/denied", {}, "org/denied: {url} denies access; ask there for access, and set HF_TOKEN"),
        ("org/broken", {}, "org/broken: {url} answers with HTTP status 500; try again later."),
        (
            f"{NAME}@v2",
            {},
            "org/name@v2: {url}/org/name has no such revision; give one of its branches, tags or commits.",
        ),
        (
            f"{NAME}@{'c3' * 20}",
            {},
            f"org/name@{'c3' * 20}: {{url}}/org/name has no such revision; give one of its branches, tags or commits.",
        ),
        ("org/pickles", {}, "org/pickles: the repository holds no safetensors file; give another checkpoint."),
        (
            NAME,
            {"HF_HUB_OFFLINE": "1"},
            "org/name: there is no such folder, and {cache} does not hold all of it, while HF_HUB_OFFLINE keeps the hub"
            " from being asked; set HF_HUB_OFFLINE=0, or fetch it beforehand.",
        ),
    ],
)
def test_each_mistake_is_one_sentence(client, value, environment, clause):
    told = client.sentence(value, **environment)
    assert told.startswith("student.path " + clause.format(url=client.hub.url, cache=client.home / "hub"))


def test_an_endpoint_that_does_not_answer(client):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        told = client.sentence(NAME, HF_ENDPOINT=url)
    assert told.startswith(f"student.path {NAME}: {url} cannot be reached (")
    assert told.endswith("); see to the network, or correct HF_ENDPOINT.")


def test_a_disk_that_is_full(client):
    code = """
import shutil
shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10, 10, 0)
import warnings; warnings.simplefilter("ignore")
resolve_checkpoint("student.path", sys.argv[1])
"""
    told = client.run(code, NAME).stderr.strip()
    assert told == (
        f"student.path {NAME}@{COMMIT}: 1 kB are to be fetched, and {client.home / 'hub'} has 0 kB free; set HF_HOME to"
        " a larger disk."
    )
    code = """
import errno, os, huggingface_hub
def full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
huggingface_hub.snapshot_download = full
resolve_checkpoint("student.path", sys.argv[1])
"""
    told = client.run(code, NAME).stderr.strip()
    assert (
        told
        == f"student.path {NAME}: the disk of {client.home / 'hub'} is full; make room, or set HF_HOME to a larger one."
    )


def test_a_cache_that_cannot_be_written(client):
    client.home.write_text("a file in the place of the folder")
    assert client.sentence(NAME).startswith(f"student.path {NAME}: ")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_download_and_whole_files_stay(client, signum, status):
    large = {**SHARDS, "model-2.safetensors": shard("b", 8_000_000)}
    client.hub.repositories[NAME].commits[COMMIT] = {**NEEDED, **large}
    client.hub.halt_after = 12_000_000
    code = """
try:
    resolve_checkpoint('student.path', sys.argv[1])
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = subprocess.Popen([sys.executable, "-c", HEAD + code, NAME], env=client.environment())
    assert client.hub.halted.wait(40)
    # Sent as a whole, it is put in its place a moment later.
    for _ in range(400):
        if any((client.home / "hub").glob("*/snapshots/*/model-1.safetensors")):
            break
        time.sleep(0.05)
    process.send_signal(signum)
    assert process.wait(20) == status
    client.hub.released.set()
    client.hub.halt_after = None
    client.hub.asked.clear()
    assert contents(client.resolve(NAME)) == {**NEEDED, **large}
    assert client.hub.fetched() == {"model-2.safetensors"}


def test_a_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert resolve_checkpoint(SETTING, NAME) == Path(NAME)
    assert find_checkpoint(SETTING, str(tmp_path)) == Found(tmp_path)


@pytest.mark.parametrize(
    "value", ["Qwen2-Audio", "/no/where", "./org/name", "a/b/c", "org/na--me", "org/name@", "a b/c"]
)
def test_neither_a_folder_nor_a_hub_id(value):
    with pytest.raises(UserError) as refused:
        resolve_checkpoint("student.path", value)
    advice = "give a checkpoint's folder or a hub id such as org/name."
    assert str(refused.value) == f"student.path {value}: there is no such folder; {advice}"


def test_a_file_is_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"model\.safetensors: is a file; give a checkpoint's folder or a hub id"):
        resolve_checkpoint("student.path", str(tmp_path / "model.safetensors"))


def test_names_of_checkpoints():
    assert read_hub_id("Qwen/Qwen2-Audio-7B-Instruct") == HubId("Qwen/Qwen2-Audio-7B-Instruct")
    assert read_hub_id("org/name@refs/pr/1") == HubId("org/name", "refs/pr/1")
    assert [read_hub_id(f"org/name@{revision}").pinned for revision in ("main", COMMIT)] == [False, True]
    for value in ("name", "org./name", "-org/name", "org/name-", "org/name.git", "org/a..b", f"org/{'n' * 93}"):
        assert read_hub_id(value) is None
    cached = f"/cache/hub/models--org--na.me-1/snapshots/{COMMIT}"
    assert checkpoint_name(cached) == f"org/na.me-1@{COMMIT}"
    assert checkpoint_name(cached, 12) == f"org/na.me-1@{COMMIT[:12]}"
    assert checkpoint_name("models/student/") == "student"
    assert checkpoint_name(f"/data/snapshots/{COMMIT}") == COMMIT


def test_one_command_asks_once_for_each_name(tmp_path, monkeypatch):
    asked = []

    def _find(setting: str, value: str, weights: bool) -> Found:
        asked.append((value, weights))
        return Found(tmp_path, HubId(NAME, COMMIT), () if weights else None)

    monkeypatch.setattr("xopd.families.hub.find_checkpoint", _find)
    checkpoints = Checkpoints()
    for weights in (False, False, True, True, False):
        assert checkpoints.find(SETTING, NAME, weights).folder == tmp_path
    assert asked == [(NAME, False), (f"{NAME}@{COMMIT}", True)]


@pytest.fixture
def world(tmp_path: Path, client: Client) -> Path:
    """A configuration whose two checkpoints are on the hub alone."""
    path = make_world(tmp_path / "world")
    for model in ("student", "teacher"):
        folder = path.parent / model
        client.hub.repositories[f"org/{model}"] = Repository({COMMIT: contents(folder)})
        path.write_text(path.read_text().replace(str(folder), f"org/{model}"))
        folder.rename(path.parent / f"moved-{model}")
    return path


def test_check_fetches_the_small_files_and_says_what_up_will_fetch(client, world):
    code = "from xopd.cli.main import main; sys.argv[0] = 'xopd'; main()"
    done = client.run(code, "check", str(world), COLUMNS="300")
    assert done.returncode == 0, done.stdout + done.stderr
    for model in ("student", "teacher"):
        size = len(client.hub.repositories[f"org/{model}"].commits[COMMIT]["model.safetensors"])
        [row] = [line for line in done.stdout.splitlines() if f"org/{model}@{COMMIT}" in line]
        shown = f"{size / 10**6:.1f} MB" if size >= 10**6 else f"{-(-size // 1000)} kB"
        assert f"; `xopd up` fetches {shown}" in row
    assert "model.safetensors" not in client.hub.fetched()
    done = client.run(code, "check", str(world), "--set", "teacher.path=org/none", COLUMNS="300")
    assert done.returncode == 2
    assert done.stdout.count("✕") == 1
    assert done.stderr.startswith("xopd: teacher.path org/none: there is no such folder, and ")


def test_what_up_writes_down_and_what_a_trainer_reads(client, world):
    code = """
from rich.console import Console
from xopd.checks.run import Checks
from xopd.config import dump_config, load_config
from xopd.families.hub import Checkpoints, resolve_checkpoints
from xopd.local.fetching import fetch_checkpoints
settings, checkpoints = load_config(sys.argv[1]), Checkpoints()
if sys.argv[2] == "up":
    Checks(settings, checkpoints).run_quick()
    fetch_checkpoints(Console(stderr=True), checkpoints, [settings], plain=True)
    print(dump_config(checkpoints.located(settings)))
else:
    lines = Lines(lambda line: print(line, file=sys.stderr))
    print(dump_config(resolve_checkpoints(settings, {"student": True, "teacher": False}, lines)))
"""
    cache = client.home / "hub"
    folders = {model: cache / f"models--org--{model}" / "snapshots" / COMMIT for model in ("student", "teacher")}
    done = client.run(code, str(world), "trainer")
    assert done.returncode == 0, done.stderr
    notes = [f"{m}.path org/{m} is org/{m}@{COMMIT}; write that, so that every service" for m in folders]
    assert all(note in done.stderr for note in notes)
    assert [(folder / "model.safetensors").exists() for folder in folders.values()] == [True, False]
    done = client.run(code, str(world), "up")
    assert done.returncode == 0, done.stderr
    assert f"fetching org/teacher@{COMMIT}: " in done.stderr
    assert "org/student" not in done.stderr  # it was there
    tree = read_yaml(done.stdout).value
    assert {model: tree[model]["path"] for model in folders} == {model: str(path) for model, path in folders.items()}
    for model, folder in folders.items():
        assert contents(folder) == contents(world.parent / f"moved-{model}")


class Shown(Checkpoints):
    """Fetches nothing, and tells of it."""

    def fetch(self, configs: object, progress: Progress) -> None:
        progress.begin(f"{NAME}@{COMMIT}", 2_000_000)
        progress.advance(1_000_000)
        progress.advance(1_000_000)
        progress.end()


def test_a_bar_on_a_terminal_and_lines_elsewhere():
    def _shown(terminal: bool, plain: bool, checkpoints: Checkpoints) -> str:
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
        configs: list[Config] = []
        fetch_checkpoints(console, checkpoints, configs, plain)
        return out.getvalue()

    lines = [f"fetching {NAME}@{COMMIT}: 2.0 MB", f"fetched {NAME}@{COMMIT}: 2.0 MB of 2.0 MB"]
    assert _shown(False, False, Shown()).splitlines() == lines
    assert _shown(True, True, Shown()).splitlines() == lines
    drawn = _shown(True, False, Shown())
    assert f"fetching {NAME} " in drawn and "2.0/2.0 MB" in drawn
    assert [_shown(True, False, Checkpoints()), _shown(False, False, Checkpoints())] == ["", ""]
