"""Token and TLS between a trainer's client and teachers, over real gRPC: what is let in, and what is said otherwise."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.certificates import Authority
from xopd.errors import UserError
from xopd.scoring import TeacherClient, TeacherUnreachableError
from xopd.scoring.ask import ask_info
from xopd.scoring.authentication import TokenGuard, add_port, open_channel
from xopd.scoring.channel import server_options
from xopd.security import Credentials
from xopd.security.tls import Certificate
from xopd.v1 import teacher_pb2 as pb
from xopd.v1 import teacher_pb2_grpc
from xopd.wire import PROTOCOL

TOKEN = "0123456789abcdef-of-a-test"


class Teacher(teacher_pb2_grpc.LogprobServiceServicer):
    """Answers without a model."""

    async def Info(self, request: pb.InfoRequest, context: Any) -> pb.InfoResponse:  # noqa: N802
        limits = pb.Limits(max_context_tokens=9, max_tokens_per_request=9, max_responses_per_request=9, max_top_k=7)
        return pb.InfoResponse(protocol=PROTOCOL, model="stub", limits=limits)

    async def ScoreStream(  # noqa: N802
        self, requests: Any, context: Any
    ) -> AsyncIterator[pb.ScoreStreamResponse]:
        async for _ in requests:
            yield pb.ScoreStreamResponse()


@contextlib.asynccontextmanager
async def serving(credentials: Credentials, port: int = 0) -> AsyncIterator[int]:
    """A teacher with `credentials`; gives its port."""
    server = grpc.aio.server(
        interceptors=[TokenGuard(credentials.token)] if credentials.token else [], options=server_options()
    )
    teacher_pb2_grpc.add_LogprobServiceServicer_to_server(Teacher(), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = add_port(server, f"127.0.0.1:{port}", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def ask(port: int, credentials: Credentials, host: str = "127.0.0.1") -> int:
    """What a trainer's client learns from the teacher, or its exception."""
    async with TeacherClient([f"{host}:{port}"], retry_limit_s=1.5, credentials=credentials) as client:
        return await client.max_top_k()


async def trouble(port: int, credentials: Credentials, host: str = "127.0.0.1") -> str:
    with pytest.raises(UserError) as caught:
        await ask(port, credentials, host)
    sentence = str(caught.value)
    assert f":{port}" in sentence
    assert TOKEN not in sentence
    assert "\n" not in sentence
    return sentence


class Pki:
    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.foreign = Authority(folder / "foreign")
        self.service = self.issue("service")

    def issue(self, name: str, *hosts: str, authority: Authority | None = None, **options: Any) -> Credentials:
        expired = options.pop("expired", False)
        files = (authority or self.authority).issue(name, *hosts, expired=expired)
        return Credentials(
            certificate=Certificate(files.cert, files.key), authorities=self.authority.path_text, **options
        )

    def spoil(self, name: str) -> None:
        (self.authority.folder / f"{name}.key").write_text("half written")

    def client(self, **options: Any) -> Credentials:
        return Credentials(authorities=self.authority.path_text, **options)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_a_token_alone(token):
    async with serving(Credentials(token)) as port:
        assert await ask(port, Credentials(token)) == 7
        assert await ask(port, Credentials(TOKEN)) == 7  # one that nobody asks for does no harm


@pytest.mark.parametrize("token", [None, "another-token-altogether"])
async def test_the_wrong_token_is_told_at_once(token):
    async with serving(Credentials(TOKEN)) as port:
        async with asyncio.timeout(20):
            async with TeacherClient(
                [f"127.0.0.1:{port}"], retry_limit_s=3600, credentials=Credentials(token)
            ) as client:
                with pytest.raises(
                    UserError, match=rf"teacher 127\.0\.0\.1:{port}: .*the same security\.token"
                ) as caught:
                    await client.max_top_k()
        assert not isinstance(caught.value, TeacherUnreachableError)
        assert TOKEN not in str(caught.value)
        with pytest.raises(UserError, match=r"the same security\.token"):
            await ask_info(f"127.0.0.1:{port}", Credentials(token), 5)


async def test_a_token_that_changes_on_the_way_is_told(pki):
    async with serving(Credentials(TOKEN)) as port:
        client = TeacherClient([f"127.0.0.1:{port}"], retry_limit_s=3600, credentials=Credentials(TOKEN))
        await client.__aenter__()
        assert await client.max_top_k() == 7
    async with serving(Credentials("the-token-that-came-after"), port), asyncio.timeout(30):
        with pytest.raises(UserError, match=r"the same security\.token"):
            await client.score([1], [[2]], "r")
    await client.__aexit__()


async def test_health_checks_need_no_token_and_streams_do():
    async with serving(Credentials(TOKEN)) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        stub = teacher_pb2_grpc.LogprobServiceStub(channel)
        for metadata in (None, [("authorization", "Bearer wrong")], [("authorization", f"Bearer {TOKEN}")] * 2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.ScoreStream(iter([pb.ScoreStreamRequest()]), metadata=metadata):
                    pass
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        shown = [("authorization", f"Bearer {TOKEN}")]
        answers = [each async for each in stub.ScoreStream(iter([pb.ScoreStreamRequest()]), metadata=shown)]
        assert len(answers) == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/no.Such/Method")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_callers_own_metadata_travels_beside_the_token():
    async with serving(Credentials(TOKEN)) as port:
        channel = open_channel(f"ipv4:127.0.0.1:{port}", "127.0.0.1", Credentials(TOKEN), [])
        stub = teacher_pb2_grpc.LogprobServiceStub(channel)
        assert (await stub.Info(pb.InfoRequest(), metadata=(("traceparent", "00-1-2-01"),))).model == "stub"
        await channel.close()


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tls_by_the_configured_name(pki, mutual, host):
    """The pool connects to numeric addresses; the certificate must be good for the name in the settings."""
    service = pki.issue("one-name", host, token=TOKEN, mutual=mutual)
    async with serving(service) as port:
        assert await ask(port, service, host) == 7
        assert (await ask_info(f"{host}:{port}", service, 5)).model == "stub"


async def test_a_certificate_for_another_name(pki):
    async with serving(pki.issue("named", "teacher.example")) as port:
        assert "IP address mismatch" in await trouble(port, pki.client())
        assert "Hostname mismatch" in await trouble(port, pki.client(), "localhost")


async def test_tls_at_one_side_only(pki):
    async with serving(pki.service) as port:
        assert "it speaks TLS, and this side does not: set security.tls_ca" in await trouble(port, Credentials())
    async with serving(pki.issue("both", mutual=True)) as port:
        assert "it speaks TLS, and this side does not" in await trouble(port, Credentials())
    async with serving(Credentials()) as port:
        assert "it speaks no TLS, and this side does" in await trouble(port, pki.client())


async def test_certificates_that_are_no_good(pki):
    async with serving(pki.issue("old", expired=True)) as port:
        assert "certificate has expired" in await trouble(port, pki.client())
    async with serving(pki.issue("foreign", authority=pki.foreign)) as port:
        assert "unable to get local issuer certificate: check it, or security.tls_ca" in await trouble(
            port, pki.client()
        )


async def test_mutual_tls_takes_clients_of_its_authority_alone(pki):
    async with serving(pki.issue("both", mutual=True)) as port:
        assert "it wants a client certificate" in await trouble(port, pki.client())
        for stranger in (
            pki.issue("stranger", authority=pki.foreign, mutual=True),
            pki.issue("late", mutual=True, expired=True),
        ):
            assert "it does not take this side's client certificate" in await trouble(port, stranger)


async def test_nobody_there(pki):
    for credentials in (Credentials(), pki.client()):
        sentence = await trouble(9, credentials)
        assert "no teacher answered within" in sentence
        assert "speaks" not in sentence


async def test_a_renewed_certificate_is_taken_up(pki):
    credentials = pki.issue("renewed", expired=True)
    async with serving(credentials) as port:
        assert "certificate has expired" in await trouble(port, pki.client())
        pki.issue("renewed")
        assert await ask(port, pki.client()) == 7
        assert credentials.certificate is not None
        pki.spoil("renewed")
        assert await ask(port, pki.client()) == 7
