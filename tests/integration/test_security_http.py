"""TLS of the HTTP endpoints, the health check of containers, and services that refuse insecure settings."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry

from tests.certificates import Authority
from tests.e2e.world import make_world
from tests.integration.forked import run
from xopd.security import Credentials
from xopd.security.tls import Certificate, client_context
from xopd.service.http import bind, make_app, serving

TOKEN = "0123456789abcdef-of-a-test"


async def fine() -> str | None:
    return None


async def not_yet() -> str | None:
    return "the model is being loaded"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def spoil(key: Path) -> None:
    key.write_text("half written")


def app() -> Any:
    return make_app("teacher", "none", "0", CollectorRegistry(), fine, not_yet)


def probe(port: int, path: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xopd.service.probe", str(port), path]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ, **env})


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("told", ["", "cert.pem"])
async def test_the_health_check_of_containers_finds_out_about_tls(authority, tls, told):
    files = authority.issue("service")
    credentials = Credentials(TOKEN, Certificate(files.cert, files.key) if tls else None, files.ca if tls else None)
    listener = bind("127.0.0.1", 0, "teacher.http_port")
    port = listener.getsockname()[1]
    async with serving(app(), listener, credentials):
        well = await asyncio.to_thread(probe, port, "/healthz", XOPD_SECURITY__TLS_CERT=told)
        assert (well.returncode, well.stderr) == (0, "")
        ill = await asyncio.to_thread(probe, port, "/readyz", XOPD_SECURITY__TLS_CERT=told)
        assert ill.returncode == 1
        assert "503" in ill.stderr and "the model is being loaded" in ill.stderr
        closed = await asyncio.to_thread(probe, port, "/version", XOPD_SECURITY__TLS_CERT=told)
        assert closed.returncode == 1 and "401" in closed.stderr
    gone = await asyncio.to_thread(probe, port, "/healthz")
    assert gone.returncode == 1 and "Connection refused" in gone.stderr
    assert (await asyncio.to_thread(probe, port, "")).returncode == 1


async def test_https_with_a_renewed_certificate(authority):
    files = authority.issue("service", expired=True)
    credentials = Credentials(TOKEN, Certificate(files.cert, files.key), files.ca)
    listener = bind("127.0.0.1", 0, "trainer.port")
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"

    async def _get(path: str, **headers: str) -> int:
        async with httpx.AsyncClient(verify=client_context(files.ca), trust_env=False) as client:
            return (await client.get(f"{url}{path}", headers=headers)).status_code

    async with serving(app(), listener, credentials):
        with pytest.raises(httpx.ConnectError, match="certificate has expired"):
            await _get("/healthz")
        authority.issue("service")
        assert await _get("/healthz") == 200
        assert await _get("/metrics") == 200
        assert await _get("/version") == 401
        assert await _get("/version", authorization=f"Bearer {TOKEN}") == 200
        spoil(Path(files.key))
        assert await _get("/healthz") == 200
        with pytest.raises(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.get(url.replace("https", "http"))


async def test_old_protocols_are_refused(authority):
    files = authority.issue("service")
    listener = bind("127.0.0.1", 0, "trainer.port")
    old = client_context(files.ca)
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with serving(app(), listener, Credentials(None, Certificate(files.cert, files.key), files.ca)):
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(verify=old, trust_env=False) as client:
                await client.get(f"https://127.0.0.1:{listener.getsockname()[1]}/healthz")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), redis={"url": "redis://127.0.0.1:1/0", "connect_timeout_s": 1})


def start(package: str, config: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("XOPD_")}
    return run([package, "--config", str(config), *options], {**clean, **env})


def assert_one_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    [sentence] = [line for line in done.stderr.splitlines() if line.startswith("xopd: ")]
    for part in parts:
        assert part in sentence


SERVICES = {"xopd_teacher": "teacher", "xopd_rollout": "rollout", "xopd_trainer": "trainer"}


@pytest.mark.parametrize("package", SERVICES)
def test_a_service_does_not_bind_elsewhere_without_token_and_tls(package, world):
    section = SERVICES[package]
    done = start(package, world, "--set", f"{section}.host=0.0.0.0")
    assert_one_sentence(
        done, f"{section}.host 0.0.0.0: is not loopback", "security.token and security.tls_cert", "--insecure"
    )
    done = start(package, world, **{f"XOPD_{section.upper()}__HOST": "0.0.0.0", "XOPD_SECURITY__TOKEN": TOKEN})
    assert_one_sentence(done, "security.tls_cert is not set")
    assert TOKEN not in done.stderr


@pytest.mark.parametrize("how", ["--insecure", "XOPD_SECURITY__INSECURE"])
@pytest.mark.parametrize("package", SERVICES)
def test_told_to_it_does(package, how, world):
    """It gets as far as its taken port, which it names."""
    section = SERVICES[package]
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        setting = "teacher.http_port" if section == "teacher" else f"{section}.port"
        options = ["--set", f"{section}.host=0.0.0.0", "--set", f"{setting}={port}"]
        told = {how: "true"} if how.startswith("XOPD") else {}
        done = start(package, world, *options, *([how] if not told else []), **told)
    assert_one_sentence(done, f"{setting}: 0.0.0.0:{port} cannot be bound (Address already in use)")


@pytest.mark.parametrize("package", SERVICES)
def test_a_certificate_that_is_no_good_is_told_before_anything_is_loaded(package, world, authority):
    files = authority.issue("late", expired=True)
    names = {"TLS_CERT": files.cert, "TLS_KEY": files.key, "TLS_CA": files.ca}
    done = start(package, world, **{f"XOPD_SECURITY__{name}": value for name, value in names.items()})
    assert_one_sentence(done, f"security.tls_cert {files.cert}", "certificate has expired")


@pytest.mark.parametrize(("package", "options"), [("xopd_trainer", ["teacher.endpoints=[teacher.example:1]"])])
def test_calls_elsewhere_without_token_and_tls_are_refused(package, options, world):
    assert_one_sentence(
        start(package, world, "--set", *options), "teacher.endpoints teacher.example:1: is not loopback"
    )


@pytest.mark.parametrize("package", ["xopd_trainer", "xopd_rollout"])
def test_redis_elsewhere_in_clear_is_refused(package, world, tmp_path):
    tree = yaml.safe_load(world.read_text())
    tree["redis"]["url"] = "redis://:never-shown@redis.example:6379/0"
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    done = start(package, config)
    assert_one_sentence(done, "redis.url redis://redis.example:6379/0: is not loopback", "rediss://")
    assert "never-shown" not in done.stderr
