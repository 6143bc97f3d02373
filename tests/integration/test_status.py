"""`xopd status` against a real Redis: what it shows, from where, and what it says when there is nothing to show."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis
from rich.console import Console
from xopd_trainer.state.status import Status, StatusKeeper

from tests.e2e.world import ROOT, make_world
from tests.unit.synthetic_run import step_record
from xopd.config.redis import RedisSettings
from xopd.ledger import Accounts as LedgerAccounts
from xopd.local.embedded_redis import EmbeddedServer
from xopd.report.records import Accounts, Score
from xopd.service.lifecycle import end_tasks
from xopd.status.model import PodStatus, RunStatus, TeacherStatus
from xopd.status.read import FleetReader, FleetState
from xopd.status.table import render_fleet
from xopd.streams.connection import connect
from xopd.streams.keys import Keys
from xopd.v1 import weights_pb2 as pb

KEYS = Keys("theirs")
LATELY = time.time() + 3600
"""The time of a beat that is never old, however slow this machine is: an age is not below 0."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        yield client


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "xopd", "status", *arguments]


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("XOPD_")}
    return {**clean, "COLUMNS": "100", **more}


def status(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, env=environment(**env), timeout=60, check=False
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    for part in parts:
        assert part in line


def run_info(**more: Any) -> pb.RunInfo:
    about = {"run_id": "tiny-1", "run_name": "tiny", "student": "/world/student", "started_at": time.time() - 200}
    return pb.RunInfo(protocol=1, **{**about, **more})


def run_status(**more: Any) -> RunStatus:
    teachers = [
        TeacherStatus(
            endpoint="10.0.3.7:50051", model="teacher", engine="transformers 5.19.0", ok=True, in_flight=3, calls=90,
            scored_tokens=123_456, tokens_per_second=3_456.7,
        ),
        TeacherStatus(endpoint="10.0.3.8:50051", ok=False, problem="unavailable, connection refused", failures=2),
    ]  # fmt: skip
    about: dict[str, Any] = {
        "run_id": "tiny-1", "phase": "training", "step": 42, "steps": 150, "policy_version": 42, "eta_s": 71.0,
        "accounts": Accounts(dispatched=5_504, trained=5_376), "beat_at": LATELY, "teachers": teachers,
    }  # fmt: skip
    return RunStatus(**{**about, **more})


def pod_status(pod_id: str, **more: Any) -> pb.PodStatus:
    lately = pb.Activity(seconds=30, generated_tokens=37_020, busy_seconds=18, sync_seconds=0.9, idle_seconds=11.1)
    about: dict[str, Any] = {
        "run_id": "tiny-1", "policy_version": 42, "engine": "vllm", "engine_version": "0.32.0",
        "url": "http://10.0.2.5:8080", "in_flight_groups": 8, "beat_at": LATELY, "recent": lately,
    }  # fmt: skip
    return pb.PodStatus(protocol=1, pod_id=pod_id, **{**about, **more})


def populate(client: redis.Redis) -> None:
    """A run with two pods and two teachers, one of which is gone."""
    client.set(KEYS.run, run_info().SerializeToString())
    client.set(KEYS.status, run_status().model_dump_json())
    for pod in (pod_status("rollout-6d5f8b7c9d-x2x5k"), pod_status("rollout-6d5f8b7c9d-zzzzz", draining=True)):
        client.set(KEYS.pod(pod.pod_id), pod.SerializeToString())
    for _ in range(3):
        client.xadd(KEYS.prompts, {"p": b"group"})
    client.xgroup_create(KEYS.prompts, "rollout", id="0")
    client.xreadgroup("rollout", "pod", {KEYS.prompts: ">"}, count=2)
    client.xadd(KEYS.trajectories, {"p": b"answer"})
    manifest = pb.WeightManifest(
        protocol=1, run_id="tiny-1", version=42, kind=pb.WEIGHT_KIND_FULL, uri="file:///weights/v42.safetensors",
        sha256="0" * 64, size_bytes=1, tensor_count=1,
    )  # fmt: skip
    client.xadd(KEYS.weights, {"p": manifest.SerializeToString()})


def test_the_fleet_is_shown_with_no_file_at_hand(client: redis.Redis, server: EmbeddedServer) -> None:
    populate(client)
    done = status("--redis", server.url, "--prefix", "theirs")
    assert done.returncode == 0, done.stderr
    for needed in (
        "training, step 42 of 150, 1 min 11 s left",
        "prompts unanswered 3 (claimed 2), answers kept until a checkpoint 1, dead letters 0",
        "5,504 trajectories dispatched, 5,376 trained",
        "v42 is the newest",
        "rollout-6d5f8b7c9d-x2x5k",
        "1,234",
        "3 %",
        "37 %",
        "draining",
        "3,457",
        "Teacher 10.0.3.8:50051 gets no calls: unavailable, connection refused.",
    ):
        assert needed in done.stdout, needed
    assert status(XOPD_REDIS__URL=server.url, XOPD_REDIS__PREFIX="theirs").stdout.count("rollout-6d5f8b7c9d") == 2


def test_programs_read_json(client: redis.Redis, server: EmbeddedServer) -> None:
    populate(client)
    read = json.loads(status("--redis", server.url, "--prefix", "theirs", "--json").stdout)
    assert read["run"]["run_name"] == "tiny"
    assert (read["trainer"]["phase"], read["trainer"]["step"]) == ("training", 42)
    assert read["queues"] == {"prompts": 3, "claimed_prompts": 2, "trajectories": 1, "dead": 0}
    assert [pod["draining"] for pod in read["pods"]] == [False, True]
    assert read["pods"][0]["recent"]["generated_tokens"] == 37_020
    assert read["pods"][0]["beat_age_s"] == 0
    assert [teacher["ok"] for teacher in read["teachers"]] == [True, False]
    assert read["newest_version"] == 42


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(width: int) -> None:
    pods = [pod_status("rollout-6d5f8b7c9d-x2x5k"), pod_status("rollout-new", policy_version=-1, recent=pb.Activity())]
    seen = [PodStatus.of(pod, time.time()) for pod in pods]
    state = FleetState("redis://…@redis:6379/0", "xopd", time.time(), run_info(), run_status(), seen, prompts=12_345)
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render_fleet(state, width))
    text = console.export_text()
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    for needed in ("rollout-6d5f8b7c9d-x2x5k", "working", "tokens/s", "idle", "heard", "10.0.3.7:50051"):
        assert needed in text
    assert ("vllm 0.32.0" in text) == (width >= 110)


def test_no_run_is_one_sentence_that_names_those_there_are(client: redis.Redis, server: EmbeddedServer) -> None:
    assert_one_sentence(status("--redis", server.url), "knows no run and no pod under the prefix 'xopd'; give")
    populate(client)
    assert_one_sentence(status("--redis", server.url), "(there are runs under: theirs)", "--prefix")


def test_no_redis_is_one_sentence(tmp_path: Path) -> None:
    nowhere = "redis://:secret@127.0.0.1:1/0"
    done = status("--redis", nowhere)
    assert_one_sentence(done, "redis.url redis://127.0.0.1:1/0: cannot be reached")
    assert "secret" not in done.stderr
    assert_one_sentence(status(), "give --redis URL, the folder of a run, or --config")
    assert_one_sentence(status(str(tmp_path), "--config", "c.yaml"), "not both")
    assert_one_sentence(status("--redis", nowhere, "--set", "redis.prefix=a"), "--set changes a configuration")


def test_what_is_stale_is_said(client: redis.Redis, server: EmbeddedServer) -> None:
    def shown() -> str:
        done = status("--redis", server.url, "--prefix", "theirs", COLUMNS="200")
        assert done.returncode == 0, done.stderr
        return done.stdout

    populate(client)
    silent = pod_status("hung", beat_at=time.time() - 25)
    client.set(KEYS.pod("hung"), silent.SerializeToString())
    assert re.search(r"hung has been silent for \d+ s: it hangs or has died\.", shown())
    # What an earlier life of the trainer said is not taken for this one's.
    client.set(KEYS.run, run_info(run_id="tiny-2").SerializeToString())
    assert "The trainer is silent: it was stopped or killed" in shown()
    client.delete(KEYS.status, *client.keys(KEYS.pods_pattern))
    assert "No rollout pod has a heartbeat" in shown()
    client.set(KEYS.run, run_info(finished=True).SerializeToString())
    assert "The run has reached its end" in shown()
    assert "No rollout pod" not in shown()
    client.set(KEYS.run, run_info().SerializeToString())
    client.set(KEYS.status, run_status(accounts=Accounts(lost=8)).model_dump_json())
    assert "8 trajectories are lost, which must not be" in shown()
    client.xadd(KEYS.dead, {"reason": "no protobuf"})
    assert "XRANGE theirs:dead - + gives the reasons" in shown()


def test_a_configuration_and_a_run_folder_name_their_redis(
    client: redis.Redis, server: EmbeddedServer, tmp_path: Path
) -> None:
    populate(client)
    config = make_world(tmp_path, redis={"prefix": "theirs"})
    assert_one_sentence(status("--config", str(config)), "redis.url is empty")
    assert "tiny" in status("--config", str(config), "--redis", server.url).stdout
    assert "tiny" in status("--config", str(config), "--set", f"redis.url={server.url}").stdout
    folder = tmp_path / "runs" / "small"
    assert_one_sentence(status(str(folder)), "no such configuration file")
    (folder / "processes").mkdir(parents=True)
    (folder / "config.yaml").write_text(config.read_text())
    assert_one_sentence(status(str(folder)), "has no Redis of its own; give --redis")
    (folder / "processes" / "redis.json").write_text(json.dumps({"port": server.port}))
    assert "tiny" in status(str(folder)).stdout


def test_watching_goes_on_until_it_is_stopped(client: redis.Redis, server: EmbeddedServer) -> None:
    populate(client)
    watching = subprocess.Popen(
        command("--redis", server.url, "--prefix", "theirs", "--watch", "--json"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert watching.stdout is not None
    steps = [json.loads(watching.stdout.readline())["trainer"]["step"]]
    client.set(KEYS.status, run_status(step=43).model_dump_json())
    while steps[-1] == 42:
        steps.append(json.loads(watching.stdout.readline())["trainer"]["step"])
    assert steps[-1] == 43
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert "Traceback" not in errors


async def test_what_the_trainer_keeps_is_what_status_and_http_show(server: EmbeddedServer, tmp_path: Path) -> None:
    """The trainer's own keeper, over a real Redis, to both readers."""

    class Teacher:
        async def describe(self) -> list[dict[str, Any]]:
            return [{"endpoint": "10.0.3.7:50051", "engine": "transformers 5", "ok": True, "scored_tokens": 640}]

    status = Status(run="tiny", steps=150)
    status.enter("training")
    rng = np.random.default_rng(0)
    for step in (41, 42):
        status.record_step(step_record(rng, step, 150))
    status.record_evaluation(
        {"kind": "eval", "step": 0, "split": "test", "scores": {"speech": {"accuracy": 0.5, "n": 9}}}
    )
    publisher = SimpleNamespace(info=run_info(), version=42)
    ledger = SimpleNamespace(accounts=LedgerAccounts(dispatched=64, trained=48))
    settings = RedisSettings(url=server.url, prefix="theirs")
    client = await connect(settings)
    async with client:
        await client.flushall()
        await client.set(KEYS.run, run_info().SerializeToString())
        await client.set(KEYS.pod("rollout-0"), pod_status("rollout-0").SerializeToString())
        keeper = StatusKeeper(client, KEYS, status, publisher, ledger, Teacher())  # type: ignore[arg-type]
        keeping = asyncio.create_task(keeper.keep())
        while not await client.exists(KEYS.status):
            await asyncio.sleep(0.01)
        await end_tasks([keeping])
        async with FleetReader(settings) as reader:
            read = await reader.read()
        answer = await keeper.answer()
    assert read.trainer is not None
    assert read.trainer.accounts.dispatched == 64
    assert (read.trainer.step, read.trainer.steps, read.trainer.policy_version) == (42, 150, 42)
    assert read.trainer.eta_s == pytest.approx(108 * sum(s.seconds["total"] for s in status._recent) / 2)
    assert read.trainer.evals[0].scores["speech"] == Score(accuracy=0.5, n=9)
    assert read.trainer.teachers[0].scored_tokens == 640
    assert read.trainer.pods == []
    assert [(pod.pod_id, pod.in_flight) for pod in read.pods] == [("rollout-0", 8)]
    assert [pod.url for pod in answer.pods] == ["http://10.0.2.5:8080"]
    shown = RunStatus.model_validate_json(answer.model_dump_json())
    assert shown.latest == status.latest
