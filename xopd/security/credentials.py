"""A process's token and certificates, read and checked once at start-up; and the refusal to go without them.

Whoever can reach a service without them could stop a run, read the policy's answers, or have the teacher compute. So
beyond loopback a service binds no address, and talks to none, without TLS and a secret, unless it was told to
(`security.insecure`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import structlog

from xopd.config.redis import RedisSettings
from xopd.config.schema import Config
from xopd.config.secrets import read_secret
from xopd.config.security import SecuritySettings
from xopd.errors import UserError
from xopd.security.tls import Certificate, check_certificate

log = structlog.get_logger(__name__)
ENDPOINT_FILE = "file:"
"""Begins an entry of teacher.endpoints that names a file of endpoints."""
SHORTEST_TOKEN = 16
"""Characters: fewer could be guessed."""


@dataclass(frozen=True)
class Credentials:
    """What a service asks of its callers, and what it shows to those it calls."""

    token: str | None = field(default=None, repr=False)
    """What callers must show, and what this process shows."""
    certificate: Certificate | None = None
    """With one, the process's ports speak TLS."""
    authorities: str | None = None
    """PEM file; with one, calls to teachers go over TLS."""
    mutual: bool = False
    """Teachers ask their callers for a certificate."""
    insecure: bool = False
    """Calls to other machines may go without token and TLS, as told."""

    @property
    def scheme(self) -> str:
        """Scheme of this process's HTTP endpoints."""
        return "http" if self.certificate is None else "https"

    def may_call(self, host: str) -> bool:
        """Whether a teacher on `host` may be called: elsewhere only with token and TLS, unless told otherwise."""
        return self.insecure or is_loopback(host) or (self.token is not None and self.authorities is not None)


def read_credentials(security: SecuritySettings) -> Credentials:
    """Read the token and look at the certificate.

    Raises:
        UserError: for a token that cannot be read or is no token, and for a certificate that is missing, expired, not
            its key's, or not from the authorities that others will check it against.
    """
    token = read_secret("security.token", security.token, security.token_file)
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise UserError(
            f"security.token: must be at least {SHORTEST_TOKEN} printable ASCII characters; make one with"
            " `openssl rand -hex 32`."
        )
    certificate = None
    if security.tls_cert is not None and security.tls_key is not None:
        certificate = Certificate(security.tls_cert, security.tls_key)
        assert security.tls_ca is not None  # the schema sees to it
        check_certificate(certificate, security.tls_ca, security.mutual_tls)
    return Credentials(token, certificate, security.tls_ca, security.mutual_tls, security.insecure)


def refuse_insecure_address(config: Config, setting: str, host: str) -> None:
    """Refuse to bind `host` without token and TLS.

    Args:
        config: the whole tree.
        setting: the name of the setting that `host` comes from.
        host: an address or a host's name.

    Raises:
        UserError: if `host` is not loopback, and token or TLS is missing, and nobody said that it is meant.
    """
    missing = _missing(config.security, config.security.tls_cert)
    if is_loopback(host) or not missing:
        return
    if config.security.insecure:
        log.warning("insecure, as told", setting=setting, address=host, missing=missing)
    else:
        raise UserError(
            f"{setting} {host}: is not loopback, and {' and '.join(missing)} not set; set what is missing"
            " (docs/SECURITY.md says how), bind 127.0.0.1, or say --insecure."
        )


def refuse_insecure_calls(config: Config) -> None:
    """Refuse to call teachers on other machines without token and TLS: the token and the data would travel in clear.

    What a file of endpoints lists is held against `Credentials.may_call` whenever the file is read.

    Raises:
        UserError: as `refuse_insecure_address`.
    """
    if config.security.insecure:
        return
    named = [text for text in config.teacher.endpoints if not text.startswith(ENDPOINT_FILE)]
    far = [text for text in named if not is_loopback(text.rpartition(":")[0].strip("[]"))]
    missing = _missing(config.security, config.security.tls_ca, "security.tls_ca")
    if far and missing:
        raise UserError(
            f"teacher.endpoints {far[0]}: is not loopback, and {' and '.join(missing)} not set; set what is missing"
            " (docs/SECURITY.md says how), or security.insecure where the network itself is closed."
        )


def refuse_insecure_redis(config: Config) -> None:
    """Refuse a Redis on another machine that is reached without TLS, or that asks nobody who they are.

    Raises:
        UserError: as `refuse_insecure_address`.
    """
    redis = config.redis
    if config.security.insecure or redis.url is None or redis_is_near(redis):
        return
    missing = []
    if not redis.url.startswith("rediss://"):
        missing.append("it is no rediss:// URL")
    if redis.password is None and redis.password_file is None and redis.tls_cert is None:
        missing.append("redis.password is not set")
    if missing:
        raise UserError(
            f"redis.url {redis.url}: is not loopback, and {' and '.join(missing)}; set what is missing"
            " (docs/SECURITY.md says how), or security.insecure where the network itself is closed."
        )


def redis_is_near(redis: RedisSettings) -> bool:
    """Whether Redis is on this machine."""
    parts = urlsplit(redis.url or "")
    return parts.scheme == "unix" or is_loopback(parts.hostname or "localhost")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. Names other than localhost are not looked up: no."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def callable_host(host: str) -> str:
    """Where this machine reaches a service of its own that bound `host`: loopback, where that is every interface."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "[::1]"


def _missing(security: SecuritySettings, certificates: str | None, name: str = "security.tls_cert") -> list[str]:
    missing = []
    if security.token is None and security.token_file is None:
        missing.append("security.token is")
    if certificates is None:
        missing.append(f"{name} is")
    if len(missing) > 1:
        missing[0] = "security.token"
        missing[1] = f"{name} are"
    return missing
