"""The section `redis`: where it is, and how it is entered."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, model_validator

from xopd.config.section import OptionalPath, PositiveFloat, Section


class RedisSettings(Section):
    """The Redis or Valkey (6.2 or newer) that carries work."""

    url: str | None = Field(
        None,
        description="redis://, rediss:// (TLS) or unix:// URL. A password in it is moved to `password`. Empty:"
        " `xopd up` starts the embedded Valkey for this run.",
    )
    password: SecretStr | None = Field(None, description="Redis's password; not by --set.")
    password_file: OptionalPath = Field(None, description="Instead: a file that holds it.")
    tls_ca: OptionalPath = Field(
        None, description="PEM of the authorities that Redis's certificate may come from. Empty: the system's."
    )
    tls_cert: OptionalPath = Field(None, description="PEM of the certificate shown to Redis, if it asks for one.")
    tls_key: OptionalPath = Field(None, description="PEM of that certificate's key.")
    prefix: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        "xopd", description="Start of every key, so that runs can share one server."
    )
    lease_s: PositiveFloat = Field(
        15.0, description="A claimed prompt group whose pod has been silent so long is taken over (seconds)."
    )
    connect_timeout_s: PositiveFloat = Field(10.0, description="Longest wait for a connection (seconds).")

    @model_validator(mode="before")
    @classmethod
    def _no_password_in_the_url(cls, given: Any) -> Any:
        return take_password_out(given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _belong_together(self) -> RedisSettings:
        if self.password is not None and self.password_file is not None:
            raise ValueError("password and password_file exclude each other; give one of them")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; give both")
        if (self.tls_ca or self.tls_cert) and not (self.url or "").startswith("rediss://"):
            raise ValueError("tls_ca, tls_cert and tls_key are for a rediss:// url; write one, or leave them empty")
        return self


def take_password_out(redis: dict[str, Any]) -> dict[str, Any]:
    """The section `redis` with the password of its URL under `password`.

    Raises:
        ValueError: if there are two different passwords, or one in the URL's query.
    """
    url = redis.get("url")
    if not isinstance(url, str):
        return redis
    bare, password = split_password(url)
    if password is None:
        return redis
    if redis.get("password_file") or _plain(redis.get("password", password)) != password:
        raise ValueError("url has a password, and there is another one beside it; give one of them")
    return {**redis, "url": bare, "password": SecretStr(password)}


def split_password(url: str) -> tuple[str, str | None]:
    """A Redis URL without its password, and the password.

    Raises:
        ValueError: if the password stands in the query.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("url is not a Redis URL; write redis://HOST:PORT") from None
    if re.search(r"(^|&)password=", parts.query):
        raise ValueError("url has a password in its query; give it as `password` or in `password_file`")
    user, _, host = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    if not colon:
        return url, None
    bare = urlunsplit(parts._replace(netloc=f"{name}@{host}" if name else host))
    # Without a host, as in unix:///path, urlunsplit leaves the slashes out.
    return bare if "://" in bare else bare.replace(":", "://", 1), unquote(password)


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
