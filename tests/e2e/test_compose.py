"""docker-compose.yml: what it runs is run here without containers, until training steps are done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from tests.e2e.compose_locally import ROOT, LocalService, can_have_a_read_only_root, read_compose
from tests.e2e.world import make_world

pytestmark = pytest.mark.timeout(300)
PASSWORD = "correct-horse"
TOKEN = "staple-of-compose"
VARIABLES = {
    "REDIS_PASSWORD": PASSWORD,
    "SERVICE_TOKEN": TOKEN,
    "GRAFANA_PASSWORD": "battery",
    "CONFIG_FILE": "config.yaml",
}
PODS = ("teacher", "rollout")


class System:
    """The services of profile `cpu`, started in the order that depends_on wants."""

    def __init__(self, folder: Path, scale: dict[str, int], steps: int = 3) -> None:
        """`scale` is what `--scale SERVICE=N` says; other services have as many containers as the file says."""
        world = folder / "world"
        make_world(world, run={"steps": steps, "checkpoint_every": 3}, evals={"every": 0})
        self.mounts = {f"/{name}": folder / name for name in ("world", "runs", "weights", "features", "data")}
        for path in self.mounts.values():
            path.mkdir(exist_ok=True)
        self.read_only = can_have_a_read_only_root(folder)
        self.about = read_compose(VARIABLES)
        self.containers: dict[str, LocalService] = {}
        for name in ("redis", "teacher", "rollout", "trainer"):
            for index in range(scale.get(name, self.about[name].get("deploy", {}).get("replicas", 1))):
                mounts = {**self.mounts, "/tmp": folder / f"{name}-{index}" / "tmp"}
                at = folder / f"{name}-{index}"
                self.containers[f"{name}-{index}"] = LocalService(name, self.about[name], at, mounts, self.read_only)
        for container in self.containers.values():
            container.siblings = [
                c for c in self.containers.values() if c.name == container.name and c is not container
            ]

    @property
    def by_service(self) -> dict[str, LocalService]:
        return {container.name: container for container in reversed(self.containers.values())}

    def start(self) -> None:
        healthy: set[str] = set()
        waiting = list(self.containers.values())
        while waiting:
            ready = [c for c in waiting if self.needs(c.name) <= healthy]
            assert ready, "depends_on goes round in circles"
            for container in ready:
                container.start(self.by_service)
            for container in ready:
                if container.name != "trainer":
                    container.wait_healthy(self.by_service)
            healthy |= {container.name for container in ready}
            waiting = [container for container in waiting if container not in ready]

    def needs(self, name: str) -> set[str]:
        wanted = self.about[name].get("depends_on", {})
        assert all(about["condition"] == "service_healthy" for about in wanted.values())
        return {each for each in wanted if each in self.by_service}

    def stop(self) -> dict[str, int]:
        started = {name: c for name, c in self.containers.items() if c.process is not None}
        return {name: container.stop() for name, container in reversed(started.items())}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, int]]:
    """The system once its trainer has ended, and the trainer's exit status."""
    system = System(tmp_path_factory.mktemp("compose"), scale={})
    try:
        system.start()
        trainer = system.containers["trainer-0"]
        trainer.wait_healthy(system.by_service)
        assert trainer.process is not None
        try:
            status = trainer.process.wait(150)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the trainer does not end:\n{trainer.tail()}")
        yield system, status
    finally:
        system.stop()


def test_training_steps_complete(finished: tuple[System, int]) -> None:
    system, status = finished
    assert status == 0, system.containers["trainer-0"].tail()
    folder = system.mounts["/runs"] / "small"
    records: list[dict[str, Any]] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "step"] == [1, 2, 3]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trajectories"]["lost"] == 0
    assert list(system.mounts["/weights"].glob("*.safetensors"))
    assert list(system.mounts["/features"].rglob("*.safetensors"))


def test_two_rollout_pods_and_a_teacher_are_still_healthy(finished: tuple[System, int]) -> None:
    system, _ = finished
    pods = [container for container in system.containers.values() if container.name in PODS]
    assert [container.name for container in pods] == ["teacher", "rollout", "rollout"]
    assert all(container.healthy(system.by_service) for container in pods)


def test_redis_wants_its_password(finished: tuple[System, int]) -> None:
    system, _ = finished
    port = system.containers["redis-0"].ports["6379"]
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=port).ping()
    with redis.Redis(port=port, password=PASSWORD) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
    assert list(system.mounts["/data"].rglob("*.aof"))


def test_pods_ask_for_the_token(finished: tuple[System, int]) -> None:
    system, _ = finished
    for name in PODS:
        url = f"http://127.0.0.1:{system.by_service[name].ports['8080']}/version"
        assert httpx.get(url, trust_env=False).status_code == 401
        shown = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.get(url, headers=shown, trust_env=False).status_code == 200


def test_no_command_line_and_no_log_has_a_secret(finished: tuple[System, int]) -> None:
    system, _ = finished
    running = [c for c in system.containers.values() if c.process is not None and c.process.poll() is None]
    assert {"redis", *PODS} <= {container.name for container in running}
    for container in running:
        assert container.process is not None
        own = psutil.Process(container.process.pid)
        for process in [own, *own.children(recursive=True)]:
            line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert PASSWORD.encode() not in line and TOKEN.encode() not in line
    for path in [*(c.log for c in system.containers.values()), *system.mounts["/runs"].rglob("*.*")]:
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes() and TOKEN.encode() not in path.read_bytes(), path


def test_the_root_was_read_only(finished: tuple[System, int]) -> None:
    if not finished[0].read_only:
        pytest.skip("a read-only root needs root's rights and unshare")


def test_the_last_to_go_drain(finished: tuple[System, int]) -> None:
    system, _ = finished
    began = time.monotonic()
    statuses = {name: c.stop() for name, c in system.containers.items() if c.name in PODS}
    assert statuses == {"teacher-0": 0, "rollout-0": 0, "rollout-1": 0}
    assert time.monotonic() - began < float(system.about["teacher"]["stop_grace_period"].removesuffix("s"))


def compose_command() -> list[str] | None:
    """Compose version 2, as Docker's plugin or as a program of its own."""
    beside = Path(sys.executable).parent / "docker-compose"
    for command in (["docker", "compose"], [str(beside)], ["docker-compose"]):
        if shutil.which(command[0]):
            version = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, timeout=30)
            if version.returncode == 0 and version.stdout.strip().lstrip("v").startswith("2."):
                return command
    return None


@pytest.mark.parametrize("also", [[], ["deploy/compose-tls.yml"]], ids=["plain", "tls"])
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_compose_itself_accepts_the_file(profile: str, also: list[str], tmp_path: Path) -> None:
    command = compose_command()
    if command is None:
        pytest.skip("docker compose, or docker-compose 2, is not installed here")
    filled = (ROOT / ".env.example").read_text().replace("PASSWORD=\n", "PASSWORD=secret\n")
    filled = filled.replace("TOKEN=\n", "TOKEN=secret\n")
    (tmp_path / "env").write_text(filled.replace("PROFILES=cpu", f"PROFILES={profile}"))
    files = ["--env-file", str(tmp_path / "env")]
    files += [word for name in ("docker-compose.yml", *also) for word in ("-f", str(ROOT / name))]
    check = subprocess.run([*command, *files, "config", "-q"], capture_output=True, text=True, timeout=60)
    assert check.returncode == 0, check.stderr
    assert not check.stderr
