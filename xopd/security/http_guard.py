"""The token on HTTP: everything but probes and metrics answers 401 without it.

/healthz and /readyz stay open for the kubelet, /metrics for Prometheus: they show figures, change nothing, and neither
of the two can be given a secret without storing it in one more place.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from xopd.security.bearer import HEADER, is_bearer_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

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
