"""Certificates for tests, from authorities made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trustme

LOOPBACK = ("127.0.0.1", "localhost")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Files:
    """Paths of the PEM files of one certificate, and of its authority."""

    cert: str
    key: str
    ca: str

    def security(self, **others: object) -> dict[str, object]:
        """The section `security` that uses them."""
        return {"tls_cert": self.cert, "tls_key": self.key, "tls_ca": self.ca, **others}


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        """Make the authority, and write its own certificate."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / f"{name}.pem"
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(str(self.path))

    @property
    def path_text(self) -> str:
        """The path of its own certificate."""
        return str(self.path)

    def issue(self, name: str, *hosts: str, expired: bool = False) -> Files:
        """A certificate for `hosts` (loopback's, where none is named), overwriting an earlier one of that name."""
        leaf = self._ca.issue_cert(*(hosts or LOOPBACK), not_after=LONG_AGO if expired else None)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        leaf.private_key_pem.write_to_path(str(key))
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        return Files(str(cert), str(key), str(self.path))
