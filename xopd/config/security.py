"""The section `security`: who may come in, and over what."""

from __future__ import annotations

from pydantic import Field, SecretStr, model_validator

from xopd.config.section import OptionalPath, Section


class SecuritySettings(Section):
    """Who may come in, and over what. Needed where a service binds another address than loopback; see SECURITY.md."""

    token: SecretStr | None = Field(
        None,
        description="What a caller must show to teachers and to the HTTP endpoints of all services, apart from"
        " /healthz, /readyz and /metrics. At least 16 characters, the same for all services; not by --set.",
    )
    token_file: OptionalPath = Field(None, description="Instead: a file that holds it.")
    tls_cert: OptionalPath = Field(
        None, description="PEM of this service's certificate and its intermediates: its ports speak TLS only."
    )
    tls_key: OptionalPath = Field(None, description="PEM of the certificate's key.")
    tls_ca: OptionalPath = Field(
        None,
        description="PEM of the authorities that the other services' certificates may come from. A trainer that has it"
        " speaks TLS with its teachers.",
    )
    mutual_tls: bool = Field(
        False, description="Teachers take only clients with a certificate of `tls_ca`; trainers show their `tls_cert`."
    )
    insecure: bool = Field(
        False,
        description="Bind and talk to addresses other than loopback although token, TLS or Redis's password are"
        " missing; `--insecure` of a service.",
    )

    @model_validator(mode="after")
    def _belong_together(self) -> SecuritySettings:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file exclude each other; give one of them")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; give both")
        if self.tls_cert is not None and self.tls_ca is None:
            raise ValueError("tls_cert needs tls_ca, by which the other side knows it; give it")
        if self.mutual_tls and self.tls_cert is None:
            raise ValueError("mutual_tls needs tls_cert, tls_key and tls_ca; give them")
        return self
