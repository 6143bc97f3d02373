"""Under which address others reach a service that listens here."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit


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
