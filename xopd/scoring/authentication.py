"""Token and TLS on gRPC: both sides of the connection between a trainer and its teachers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health

from xopd.errors import UserError
from xopd.security import Credentials
from xopd.security.tls import Certificate, server_context
from xopd.security.token import HEADER, bearer, is_bearer_of

log = structlog.get_logger(__name__)
REJECTED = "it refuses this side's token; give both the same security.token"
"""What a trainer says of a teacher that answers UNAUTHENTICATED."""
REFUSAL = "wants the token of security.token as `authorization: Bearer TOKEN`"


def add_port(server: Any, address: str, credentials: Credentials) -> int:
    """Bind a port of a grpc.aio server, with TLS where there is a certificate; a renewed one is taken up by itself.

    Raises:
        RuntimeError: if the address cannot be bound.
    """
    if credentials.certificate is None:
        return int(server.add_insecure_port(address))
    renewed = _Renewed(credentials.certificate, credentials.authorities if credentials.mutual else None)
    return int(
        server.add_secure_port(
            address, grpc.dynamic_ssl_server_credentials(renewed.configuration(), renewed.newest, credentials.mutual)
        )
    )


def open_channel(
    target: str,
    name: str,
    credentials: Credentials,
    options: list[tuple[str, Any]],
    interceptors: list[Any] | None = None,
) -> Any:
    """A grpc.aio channel; its calls carry the token.

    Args:
        target: where to connect, such as `ipv4:10.0.0.3:50051`.
        name: host name that the other side's certificate must be good for.
        credentials: of this process.
        options: of the channel.
        interceptors: the caller's own.

    Raises:
        UserError: if the authorities or this process's certificate cannot be read.
    """
    every = list(interceptors or ())
    if credentials.token is not None:
        every.append(_ShowToken(credentials.token))
    if credentials.authorities is None:
        return grpc.aio.insecure_channel(target, options=options, interceptors=every)
    tls = channel_credentials(credentials)
    named = [*options, ("grpc.ssl_target_name_override", name)]
    return grpc.aio.secure_channel(target, tls, options=named, interceptors=every)


def channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    """What a client trusts and, with mutual TLS, shows. The files are read now.

    Raises:
        UserError: if one cannot be read.
    """
    assert credentials.authorities is not None
    try:
        key, chain = (
            credentials.certificate.read()
            if credentials.mutual and credentials.certificate is not None
            else (None, None)
        )
        return grpc.ssl_channel_credentials(Path(credentials.authorities).read_bytes(), key, chain)
    except OSError as error:
        raise UserError(f"security: {error.filename} cannot be read ({error.strerror}).") from None


class TokenGuard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Answers UNAUTHENTICATED to calls without the token; health checks are let through, as their callers have none."""

    def __init__(self, token: str) -> None:
        """Ask for `token`."""
        self.token = token

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Hand the call on, or refuse it."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(f"/{health.SERVICE_NAME}/"):
            return handler
        shown = [value for name, value in handler_call_details.invocation_metadata or () if name == HEADER]
        if len(shown) == 1 and is_bearer_of(self.token, shown[0]):
            return handler
        return _refusing(handler)


def _refusing(handler: Any) -> Any:
    """A handler of the same kind that refuses."""

    async def _refuse(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(_refuse)


class _ShowToken(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Adds the token to each call of one request and one answer, which all of a trainer's are."""

    def __init__(self, token: str) -> None:
        self.shown = (HEADER, bearer(token))

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()), self.shown)
        return await continuation(client_call_details._replace(metadata=metadata), request)


class _Renewed:
    """A server's certificate as it lies on the disk; read by gRPC's own threads."""

    def __init__(self, certificate: Certificate, clients: str | None) -> None:
        self.certificate = certificate
        self.clients = clients
        self._stamp = certificate.stamp()

    def configuration(self) -> Any:
        clients = None if self.clients is None else Path(self.clients).read_bytes()
        return grpc.ssl_server_certificate_configuration([self.certificate.read()], clients)

    def newest(self) -> Any:
        """Asked before each handshake; None keeps what there is."""
        try:
            stamp = self.certificate.stamp()
            if stamp == self._stamp:
                return None
            server_context(self.certificate)  # a half-written pair is not taken
            configuration = self.configuration()
        except (OSError, UserError):
            return None
        self._stamp = stamp
        log.info("took up a renewed certificate", certificate=self.certificate.chain)
        return configuration
