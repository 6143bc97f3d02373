"""The token as it travels, `Authorization: Bearer TOKEN` on HTTP and as gRPC metadata, and what HTTP asks it for.

Everything but probes and metrics answers 401 without it. /healthz and /readyz stay open for the kubelet, /metrics for
Prometheus: they show figures, change nothing, and neither of the two can be given a secret without storing it in one
more place.
"""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HEADER = "authorization"
"""Name of the header and of the metadata, in lower case as gRPC wants it."""


def bearer(token: str) -> str:
    """The header's value."""
    return f"Bearer {token}"


def is_bearer_of(token: str, value: str | bytes | None) -> bool:
    """Whether a header's value shows `token`, in a time that tells nothing of where they differ."""
    if value is None:
        return False
    given = value if isinstance(value, bytes) else value.encode()
    scheme, _, shown = given.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(shown.strip(), token.encode())


OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


class HttpGuard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        """Let callers with `token` through to `app`."""
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            shown = [value for name, value in scope["headers"] if name == HEADER.encode()]
            if len(shown) != 1 or not is_bearer_of(self.token, shown[0]):
                await _refuse(send)
                return
        elif scope["type"] == "websocket":
            raise RuntimeError("no service has websockets")
        await self.app(scope, receive, send)


async def _refuse(send: Send) -> None:
    body = json.dumps({"detail": "wants the token of security.token as `Authorization: Bearer TOKEN`"}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
