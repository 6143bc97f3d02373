"""Redis's security: its password, TLS with a private authority, client certificates; and what mistakes say."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.certificates import Authority, Files
from xopd.config.schema import RedisSettings
from xopd.errors import UserError
from xopd.local import child
from xopd.local.embedded_redis import HOST, EmbeddedServer, free_port, server_input
from xopd.streams import connect

PASSWORD = 'correct "horse" \\battery'


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("locked"), password=PASSWORD) as server:
        yield server


async def trouble(**settings: object) -> str:
    with pytest.raises(UserError) as caught:
        await connect(RedisSettings.model_validate({"connect_timeout_s": 3.0, **settings}))
    sentence = str(caught.value)
    assert PASSWORD not in sentence
    assert "\n" not in sentence
    return sentence


async def test_the_embedded_server_asks_for_its_password(locked):
    client = await connect(RedisSettings.model_validate({"url": locked.url, "password": PASSWORD}))
    assert await client.ping()
    await client.aclose()
    assert not any(PASSWORD in word for word in psutil.Process(locked.pid).cmdline())


async def test_a_password_from_a_file(locked, tmp_path):
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    client = await connect(RedisSettings(url=locked.url, password_file=str(tmp_path / "password")))
    await client.aclose()


async def test_the_wrong_password_and_none(locked):
    sentence = await trouble(url=locked.url, password="not-the-one")
    assert f"redis.url {locked.url}: refuses the password" in sentence
    assert "XOPD_REDIS__PASSWORD" in sentence
    assert "not-the-one" not in sentence
    assert "wants a password" in await trouble(url=locked.url)


class TlsServer:
    """Redis with TLS alone."""

    def __init__(self, binary: str, folder: Path, files: Files, clients: str) -> None:
        self.port = free_port()
        self.url = f"rediss://{HOST}:{self.port}/0"
        folder.mkdir()
        options = {
            "bind": HOST, "port": 0, "tls-port": self.port, "dir": folder, "save": "", "tls-auth-clients": clients,
            "tls-cert-file": files.cert, "tls-key-file": files.key, "tls-ca-cert-file": files.ca,
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.log = folder / "log.txt"
        self.process = child.spawn([binary, "-", *words], self.log, stdin=server_input(PASSWORD))
        deadline = time.monotonic() + 20
        while "Ready to accept connections" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


def with_tls() -> str | None:
    """A Redis server that was built with TLS; the embedded Valkey was not."""
    for name in ("redis-server", "valkey-server"):
        binary = shutil.which(name)
        if binary is None:
            continue
        libraries = subprocess.run(["ldd", binary], capture_output=True, text=True, timeout=10).stdout
        if "libssl" in libraries:
            return binary
    return None


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def serve(tmp_path: Path, authority: Authority) -> Iterator[object]:
    binary = with_tls()
    if binary is None:
        pytest.skip("a Redis server with TLS is not installed here (Debian: redis-server)")
    servers: list[TlsServer] = []

    def _serve(files: Files | None = None, clients: str = "no") -> TlsServer:
        folder = tmp_path / f"redis-{len(servers)}"
        servers.append(TlsServer(binary, folder, files or authority.issue("redis"), clients))
        return servers[-1]

    yield _serve
    for server in servers:
        child.stop(server.process, 5.0)


async def test_tls_with_an_authority_of_ones_own(serve, authority):
    server = serve()
    mine = {"url": server.url, "password": PASSWORD, "tls_ca": authority.path_text}
    client = await connect(RedisSettings.model_validate(mine))
    assert await client.ping()
    await client.aclose()
    assert "self-signed certificate in certificate chain" in await trouble(url=server.url, password=PASSWORD)
    assert "refuses the password" in await trouble(**mine | {"password": "other"})


async def test_a_client_certificate(serve, authority, tmp_path):
    server = serve(clients="yes")
    mine = {"url": server.url, "password": PASSWORD, "tls_ca": authority.path_text}
    own = authority.issue("client")
    client = await connect(RedisSettings.model_validate(mine | {"tls_cert": own.cert, "tls_key": own.key}))
    assert await client.ping()
    await client.aclose()
    assert "it wants a client certificate" in await trouble(**mine)
    stranger = Authority(tmp_path / "other").issue("stranger")
    sentence = await trouble(**mine, tls_cert=stranger.cert, tls_key=stranger.key)
    assert "does not take this side's client certificate" in sentence


async def test_certificates_that_are_no_good(serve, authority):
    mine = {"password": PASSWORD, "tls_ca": authority.path_text}
    assert "certificate has expired" in await trouble(url=serve(authority.issue("late", expired=True)).url, **mine)
    assert "IP address mismatch" in await trouble(url=serve(authority.issue("named", "redis.example")).url, **mine)
    own, other = authority.issue("client"), authority.issue("other")
    url = "rediss://127.0.0.1:1"
    assert "redis.tls_ca /none.pem: cannot be read" in await trouble(url=url, tls_ca="/none.pem")
    mixed = await trouble(url=url, tls_cert=own.cert, tls_key=other.key)
    assert f"redis.tls_key {other.key}: is not the key of redis.tls_cert {own.cert}" in mixed


async def test_tls_at_one_side_only(serve, authority, locked):
    server = serve()
    plain = server.url.replace("rediss", "redis")
    assert "it speaks TLS, and this side does not: set a rediss:// URL" in await trouble(url=plain, password=PASSWORD)
    over_tls = locked.url.replace("redis", "rediss", 1)
    mine = {"password": PASSWORD, "tls_ca": authority.path_text, "connect_timeout_s": 0.3}
    assert "it does not answer TLS's greeting: is TLS off there?" in await trouble(url=over_tls, **mine)


async def test_nobody_there():
    for url in ("redis://127.0.0.1:1", "rediss://127.0.0.1:1"):
        assert "cannot be reached" in await trouble(url=url)
