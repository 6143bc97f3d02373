"""The HTTP endpoints that every service has (/healthz, /readyz, /metrics, /version), and their address."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel

import xopd
from xopd.errors import UserError
from xopd.security import Credentials
from xopd.security.tls import Certificate, fresh_server_context
from xopd.security.token import HttpGuard

ReadyCheck = Callable[[], Awaitable[str | None]]
"""Returns None when ready, else a clause that says what is missing."""


class Health(BaseModel):
    """Answer of /healthz and /readyz."""

    ok: bool
    detail: str = ""


class Version(BaseModel):
    """Answer of /version."""

    service: str
    xopd: str
    engine: str
    engine_version: str


def make_app(
    service: str, engine: str, engine_version: str, registry: CollectorRegistry, alive: ReadyCheck, ready: ReadyCheck
) -> FastAPI:
    """An application with the common endpoints; services add their own routes to it."""
    app = FastAPI(title=f"X-OPD {service}", version=xopd.__version__)

    async def _answer(check: ReadyCheck, response: Response) -> Health:
        missing = await check()
        if missing is not None:
            response.status_code = 503
        return Health(ok=missing is None, detail=missing or "")

    @app.get("/healthz", summary="Is the process alive and its engine working?")
    async def healthz(response: Response) -> Health:
        return await _answer(alive, response)

    @app.get("/readyz", summary="Can it take work now?")
    async def readyz(response: Response) -> Health:
        return await _answer(ready, response)

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/version", summary="Versions of the service and its engine")
    async def version() -> Version:
        return Version(service=service, xopd=xopd.__version__, engine=engine, engine_version=engine_version)

    return app


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket on host:port; port 0 takes a free one.

    Raises:
        UserError: if it cannot be had, naming `setting`, such as rollout.port.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(
            f"{setting}: {host}:{port} cannot be bound ({error.strerror}); free it, or set another."
        ) from None
    return listener


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: FastAPI, listener: socket.socket, credentials: Credentials) -> AsyncIterator[None]:
    """Serve `app` on `listener` while the block runs, with `credentials`. Signals stay with the caller."""
    guarded = app if credentials.token is None else HttpGuard(app, credentials.token)
    config = uvicorn.Config(
        guarded,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=2,
        ssl_context_factory=None if credentials.certificate is None else _context_of(credentials.certificate),
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


def _context_of(certificate: Certificate) -> Callable[[uvicorn.Config, Callable[[], ssl.SSLContext]], ssl.SSLContext]:
    return lambda _config, _default: fresh_server_context(certificate)


def reachable_host(bound: str, announce: str | None, peer_url: str | None) -> str:
    """The host part of a URL that other machines can use.

    Args:
        bound: address that the service listens on.
        announce: what the user wants announced instead; None leaves the choice here.
        peer_url: URL of a server that those others reach too. Where the service listens on every interface, the one
            that leads there is taken. Nothing is sent.
    """
    if announce:
        return announce
    return bound if not _is_every_interface(bound) else _own_address_towards(peer_url)


def http_url(host: str, port: int, scheme: str = "http") -> str:
    """`scheme://host:port`, a version 6 address in brackets."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _is_every_interface(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _own_address_towards(peer_url: str | None) -> str:
    parts = urlsplit(peer_url or "")
    try:
        found = socket.getaddrinfo(parts.hostname or "", parts.port or 6379, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # a datagram socket only looks up its route
            return str(probe.getsockname()[0])
    except (OSError, ValueError):
        return socket.gethostname()
