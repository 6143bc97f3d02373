"""The token as it travels: `Authorization: Bearer TOKEN`, on HTTP and as gRPC metadata alike."""

from __future__ import annotations

import hmac

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
