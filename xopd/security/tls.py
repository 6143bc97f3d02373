"""TLS of the HTTP endpoints, and what is wrong with a certificate, in one sentence, before anybody connects.

A certificate is checked by a handshake in memory: OpenSSL itself says whether the other side would take it.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xopd.errors import UserError

OLDEST = ssl.TLSVersion.TLSv1_2


@dataclass(frozen=True)
class Certificate:
    """A certificate with its intermediates, and its key: two PEM files."""

    chain: str
    key: str

    def read(self) -> tuple[bytes, bytes]:
        """Key and chain, as gRPC takes them. Raises OSError."""
        return Path(self.key).read_bytes(), Path(self.chain).read_bytes()

    def stamp(self) -> tuple[int, ...]:
        """Differs once either file was replaced. Raises OSError."""
        found = [os.stat(path) for path in (self.chain, self.key)]
        return tuple(part for each in found for part in (each.st_mtime_ns, each.st_ino))


def check_certificate(certificate: Certificate, authorities: str, mutual: bool, name: str | None = None) -> str:
    """Whether others would accept `certificate` by `authorities`; returns its last day, such as 2026-11-25.

    Args:
        certificate: what this process shows.
        authorities: PEM file of the authorities that the others know.
        mutual: it must also serve as a client's certificate.
        name: host name or address that it must be good for; None leaves that to those who connect.

    Raises:
        UserError: naming the setting and the file.
    """
    server = server_context(certificate)
    client = client_context(authorities)
    client.check_hostname = name is not None
    if mutual:
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(authorities)
        client.load_cert_chain(certificate.chain, certificate.key)
    try:
        return _shake_hands(server, client, name)
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message.rstrip(".")
    except ssl.SSLError as error:
        reason = error.reason or str(error)
    wanted = f"for {name} " if name is not None else ""
    raise UserError(
        f"security.tls_cert {certificate.chain}: would not be accepted {wanted}by security.tls_ca {authorities}"
        f" ({reason}); renew the certificate, or give the authorities that it comes from."
    )


def server_context(certificate: Certificate, section: str = "security") -> ssl.SSLContext:
    """What a server with this certificate speaks. `section` is the one whose settings name the files.

    Raises:
        UserError: if a file cannot be read, or the key is not the certificate's.
    """
    for setting, path in ((f"{section}.tls_cert", certificate.chain), (f"{section}.tls_key", certificate.key)):
        _need_file(setting, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = OLDEST
    try:
        context.load_cert_chain(certificate.chain, certificate.key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UserError(
                f"{section}.tls_key {certificate.key}: is not the key of {section}.tls_cert {certificate.chain}; give"
                " the pair that was made together."
            ) from None
        raise UserError(
            f"{section}.tls_cert {certificate.chain} and {section}.tls_key {certificate.key}: cannot be loaded"
            f" ({error.reason or 'the key wants a password'}); both must be PEM, the key without a password."
        ) from None
    return context


def client_context(authorities: str, setting: str = "security.tls_ca") -> ssl.SSLContext:
    """What a client that trusts `authorities` (PEM file) speaks.

    Raises:
        UserError: if the file cannot be read or holds no certificate.
    """
    _need_file(setting, authorities)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = OLDEST
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise UserError(f"{setting} {authorities}: holds no certificate ({error.reason}); give a PEM file.") from None
    return context


def fresh_server_context(certificate: Certificate) -> ssl.SSLContext:
    """A server's context that takes up a renewed certificate with the next connection. Raises as `server_context`."""
    outer = server_context(certificate)
    current, seen = outer, certificate.stamp()

    def _with_the_newest(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current, seen
        # Half-written files are looked at again with the next connection.
        with contextlib.suppress(OSError, UserError):
            stamp = certificate.stamp()
            if stamp != seen:
                current, seen = server_context(certificate), stamp
        connection.context = current

    outer.sni_callback = _with_the_newest
    return outer


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> str:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):  # flights of a handshake, the fewest first; a side that has finished does nothing
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown: Any = near.getpeercert()
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC).date().isoformat()


def _need_file(setting: str, path: str) -> None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{setting} {path}: cannot be read ({error.strerror}); correct the path or its rights."
        ) from None


def _no_password() -> str:
    # Without this, OpenSSL would ask for a password on the terminal.
    return ""
