"""Authentication and TLS: the token, the certificates, and the refusal to run insecurely beyond loopback."""

from xopd.security.credentials import (
    Credentials,
    read_credentials,
    refuse_insecure_address,
    refuse_insecure_calls,
    refuse_insecure_redis,
)

__all__ = [
    "Credentials",
    "read_credentials",
    "refuse_insecure_address",
    "refuse_insecure_calls",
    "refuse_insecure_redis",
]
