"""A whole run with security on: mutual TLS, a token and Redis's password; and secrets that are found nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import redis

from tests.certificates import Authority
from tests.e2e.world import ROOT, Run, make_world
from xopd.local.embedded_redis import EmbeddedServer
from xopd.security.tls import client_context
from xopd.v1 import teacher_pb2, teacher_pb2_grpc

pytestmark = pytest.mark.timeout(600)
TOKEN = "tok-3f9c0a7d51e24b86"
PASSWORD = "pw-88d1c2a5e7f04b93"
SECRETS = (TOKEN, PASSWORD)
SERVICES = ("teacher-0", "rollout-0", "trainer")


class Closed:
    """A run that is under way, and its authority."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "pki")
        files = self.authority.issue("service")
        sections = {"security": files.security(mutual_tls=True), "run": {"steps": 12}, "evals": {"every": 0}}
        self.config = make_world(folder, **sections)
        self.run = Run(self.config)
        self.http = httpx.Client(verify=client_context(files.ca), trust_env=False, timeout=20)
        self.shown = {"Authorization": f"Bearer {TOKEN}"}

    def addresses(self, name: str) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.run.folder / "processes" / f"{name}.json").read_text())
        return found

    def url(self, name: str) -> str:
        return f"https://{self.addresses(name)['http']}"

    def paused(self) -> None:
        """Hold the trainer between two steps, so that there is time to look."""
        assert self.http.post(f"{self.url('trainer')}/pause", headers=self.shown).status_code == 200


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XOPD_SECURITY__TOKEN", TOKEN)
        patched.setenv("XOPD_REDIS__PASSWORD", PASSWORD)
        started = Closed(tmp_path_factory.mktemp("closed"))
    try:
        started.run.wait_for_step(1)
        started.paused()
        yield started
    finally:
        started.run.stop()
        started.http.close()


def xopd(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("XOPD_")}
    command = [sys.executable, "-m", "xopd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**clean, **env}, timeout=120)


def test_no_command_line_has_a_secret(closed):
    up = psutil.Process(closed.run.process.pid)
    everyone = [up, *up.children(recursive=True)]
    lines = [Path(f"/proc/{each.pid}/cmdline").read_bytes() for each in everyone if each.is_running()]
    assert len(lines) >= 5  # xopd up, Redis, teacher, rollout pod with its engine, trainer
    for line in lines:
        assert not any(secret.encode() in line for secret in SECRETS)


@pytest.mark.parametrize("name", SERVICES)
def test_endpoints_ask_for_the_token_and_show_no_secret(closed, name):
    url = closed.url(name)
    for path in ("/healthz", "/readyz", "/metrics"):
        answer = closed.http.get(url + path)
        assert answer.status_code == 200, path
        assert not any(secret in answer.text for secret in SECRETS)
    for path in ("/version", "/docs", "/openapi.json", "/status", "/v1/generate"):
        assert closed.http.get(url + path).status_code == 401
    assert closed.http.get(f"{url}/version", headers=closed.shown).status_code == 200
    with pytest.raises(httpx.HTTPError):
        httpx.get(url.replace("https", "http") + "/healthz", trust_env=False)
    with pytest.raises(httpx.ConnectError, match=r"self-signed|issuer"):
        httpx.get(f"{url}/healthz", trust_env=False)


def test_status_shows_no_secret_and_control_asks_for_the_token(closed):
    url = closed.url("trainer")
    status = closed.http.get(f"{url}/status", headers=closed.shown)
    assert status.json()["pods"][0]["url"].startswith("https://")
    assert not any(secret in status.text for secret in SECRETS)
    for path in ("/resume", "/pause"):
        assert closed.http.post(url + path).status_code == 401
        assert closed.http.post(url + path, headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_the_pods_generate_asks_for_the_token(closed):
    body = {"text": "say one", "max_new_tokens": 3}
    url = f"{closed.url('rollout-0')}/v1/generate"
    assert closed.http.post(url, json=body).status_code == 401
    assert closed.http.post(url, json=body, headers=closed.shown).json()["responses"]


def test_the_teacher_takes_only_the_authoritys_own_with_the_token(closed):
    files = closed.authority.issue("client")
    key, chain, ca = (Path(path).read_bytes() for path in (files.key, files.cert, files.ca))
    address = closed.addresses("teacher-0")["grpc"]
    mine = grpc.ssl_channel_credentials(ca, key, chain)
    shown = [("authorization", f"Bearer {TOKEN}")]

    def _ask(channel: grpc.Channel, metadata: list[tuple[str, str]]) -> grpc.StatusCode:
        with channel:
            try:
                stub = teacher_pb2_grpc.LogprobServiceStub(channel)
                stub.Info(teacher_pb2.InfoRequest(), timeout=5, metadata=metadata)
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
            return grpc.StatusCode.OK

    assert _ask(grpc.secure_channel(address, mine), shown) is grpc.StatusCode.OK
    assert _ask(grpc.secure_channel(address, mine), []) is grpc.StatusCode.UNAUTHENTICATED
    assert _ask(grpc.secure_channel(address, grpc.ssl_channel_credentials(ca)), shown) is grpc.StatusCode.UNAVAILABLE
    assert _ask(grpc.insecure_channel(address), shown) is grpc.StatusCode.UNAVAILABLE


def test_redis_asks_for_its_password(closed):
    port = closed.addresses("redis")["port"]
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=int(port)).ping()
    refused = xopd("status", str(closed.run.folder))
    assert refused.returncode == 2
    assert "wants a password" in refused.stderr and "XOPD_REDIS__PASSWORD" in refused.stderr
    let_in = xopd("status", str(closed.run.folder), XOPD_REDIS__PASSWORD=PASSWORD)
    assert let_in.returncode == 0, let_in.stderr
    assert "of 12" in let_in.stdout and "answers" in let_in.stdout


def test_check_describes_the_security(closed):
    done = xopd("check", str(closed.config), XOPD_SECURITY__TOKEN=TOKEN, XOPD_REDIS__PASSWORD=PASSWORD, COLUMNS="300")
    assert done.returncode == 0, done.stderr
    assert (
        "a token is asked for; mutual TLS, certificate valid until 3000-01-01; own Redis with a password" in done.stdout
    )
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)


def test_the_run_ends_well_and_nothing_that_it_wrote_has_a_secret(closed):
    """The last of this file: it lets the run go on to its end."""
    answer = closed.http.post(f"{closed.url('trainer')}/resume", headers=closed.shown)
    assert answer.json() == {"paused": False}
    assert closed.run.wait(300) == 0, closed.run.text()
    assert len(closed.run.steps()) == 12
    assert closed.run.summary()["trajectories"]["lost"] == 0
    written = [path for path in closed.run.folder.rglob("*") if path.is_file()]
    assert {"config.yaml", "teacher-0.log", "rollout-0.log", "trainer.log", "redis.log"} <= {
        path.name for path in written
    }
    for path in [*written, closed.run.output]:
        content = path.read_bytes()
        assert not any(secret.encode() in content for secret in SECRETS), path
    assert "text-only teacher: text" in closed.run.text()  # the live view was let in, too


def test_the_wrong_redis_password_is_one_sentence(tmp_path, monkeypatch):
    with EmbeddedServer(tmp_path / "redis", password=PASSWORD) as server:
        monkeypatch.setenv("XOPD_REDIS__URL", server.url.replace("//", "//:not-the-password@"))
        run = Run(make_world(tmp_path / "world"))
        assert run.wait(120) == 2, run.text()
    [sentence] = [line for line in run.text().splitlines() if line.startswith("xopd: ")]
    assert f"redis.url {server.url}: refuses the password" in " ".join(run.text().split())
    assert "Traceback" not in run.text()
    assert "not-the-password" not in run.text()
    assert sentence


def test_an_expired_certificate_is_told_before_anything_starts(tmp_path):
    files = Authority(tmp_path / "pki").issue("late", expired=True)
    run = Run(make_world(tmp_path / "world", security=files.security()))
    assert run.wait(120) == 2, run.text()
    assert "certificate has expired" in " ".join(run.text().split())
    assert not (run.folder / "logs").exists()
