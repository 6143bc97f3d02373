"""Why a connection failed, asked of the other side itself: does it speak TLS, and what is wrong with its certificate?

gRPC and Redis clients both say little more than "socket closed" where only one side has TLS on.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

from xopd.security.tls import client_context

ANSWER_TIMEOUT_S = 2.0
"""Longest wait for each answer."""


async def tls_trouble(
    host: str,
    port: int,
    *,
    name: str,
    authorities: str | None,
    setting: str,
    certificate: tuple[str, str] | None = None,
    system: bool = False,
) -> str | None:
    """What TLS has to do with a failed connection, as a clause with the remedy; None where it is not to blame.

    Args:
        host: address to ask; with
        port: its port.
        name: name or address that its certificate must be good for.
        authorities: PEM file that this side trusts; None where this side speaks no TLS.
        setting: what turns TLS on at this side, for the clause.
        certificate: PEM files of chain and key that this side shows.
        system: this side speaks TLS and trusts the system's authorities.
    """
    wanted = (host, port, name, authorities, setting, certificate, system)
    return await asyncio.to_thread(_trouble, *wanted)


def _trouble(
    host: str,
    port: int,
    name: str,
    authorities: str | None,
    setting: str,
    certificate: tuple[str, str] | None,
    system: bool,
) -> str | None:
    if authorities is None and not system:
        error = _handshake(host, port, name, _anybody())
        # An alert is an answer, too: it may want a client certificate.
        speaks_tls = error is None or isinstance(error, _RejectedError) or "ALERT" in _reason(error)
        return f"it speaks TLS, and this side does not: set {setting}" if speaks_tls else None
    context = client_context(authorities) if authorities is not None else ssl.create_default_context()
    if certificate is not None:
        context.load_cert_chain(*certificate)
    error = _handshake(host, port, name, context)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted, {error.verify_message.rstrip('.')}: check it, or {setting}"
    if isinstance(error, _RejectedError) or "ALERT" in _reason(error):
        shown = (
            "does not take this side's client certificate" if certificate is not None else "wants a client certificate"
        )
        return f"it {shown}: give tls_cert and tls_key from the authorities that it knows"
    # A server without TLS takes a greeting for nonsense: it answers in its own language, or hangs up.
    if isinstance(error, (ssl.SSLError, ConnectionResetError)):
        return "it speaks no TLS, and this side does: turn TLS on there, or off here"
    if isinstance(error, TimeoutError):
        return "it does not answer TLS's greeting: is TLS off there? It is on at this side"
    return None


class _RejectedError(Exception):
    """The server hung up after a handshake that was good for this side."""


class _UnreachableError(Exception):
    """There is no connection at all."""


def _handshake(host: str, port: int, name: str, context: ssl.SSLContext) -> Exception | None:
    """None where a handshake succeeds, else what went wrong."""
    context.set_alpn_protocols(["h2"])
    try:
        plain = socket.create_connection((host, port), timeout=ANSWER_TIMEOUT_S)
    except OSError:
        return _UnreachableError()
    with plain:
        try:
            connection = context.wrap_socket(plain, server_hostname=name)
        except (OSError, ValueError) as error:
            return error
        with connection:
            # In TLS 1.3 the server's word on a client's certificate comes after the handshake.
            try:
                return None if connection.recv(1) else _RejectedError()
            except TimeoutError:
                return None
            except OSError:
                return _RejectedError()


def _reason(error: Exception | None) -> str:
    return (error.reason or "") if isinstance(error, ssl.SSLError) else ""


def _anybody() -> ssl.SSLContext:
    """A context that takes any certificate: only whether there is one matters, and nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
