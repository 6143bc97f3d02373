"""The section `redis`: where it is, and how it is entered."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SecretStr, model_validator

from xopd.config.secrets import OptionalPath, take_password_out
from xopd.config.section import PositiveFloat, Section


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
