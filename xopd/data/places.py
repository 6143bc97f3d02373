"""Which files a URI that came from elsewhere may make this process read.

A URI out of a message or a manifest is somebody else's word. It is followed only where its scheme is allowed and it
lies below one of the roots; links are followed first, so that none leads out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOCAL = "file"


class PlaceError(ValueError):
    """A URI that must not be followed; the text, a clause, says why."""


@dataclass(frozen=True)
class Places:
    """Allowed schemes, and the roots below which a URI must lie: absolute folders, or URIs."""

    schemes: tuple[str, ...]
    roots: tuple[str, ...]

    @classmethod
    def below(cls, roots: Sequence[str], schemes: Sequence[str] = ()) -> Places:
        """What lies below `roots`; without `schemes`, by the schemes of the roots themselves."""
        return cls(tuple(schemes) or tuple(sorted({_scheme(root) for root in roots})), tuple(roots))

    def check(self, uri: str) -> str:
        """The path or URI to open for `uri`.

        Raises:
            PlaceError: if it must not be followed.
        """
        if not uri or not uri.isprintable():
            raise PlaceError("is no URI")
        if "::" in uri:
            raise PlaceError("is a chain of URIs (::), which is not followed")
        scheme = _scheme(uri)
        if scheme not in self.schemes:
            raise PlaceError(f"has the scheme {scheme}; {', '.join(self.schemes)} may be read (data.uri_schemes)")
        return self._local(uri) if scheme == LOCAL else self._remote(uri, scheme)

    def _local(self, uri: str) -> str:
        try:
            path = local_path(uri).resolve()
            allowed = any(path.is_relative_to(local_path(r).resolve()) for r in self.roots if _scheme(r) == LOCAL)
        except (OSError, RuntimeError, ValueError) as error:  # too long a name, a loop of links
            raise PlaceError(f"is no path ({error})") from None
        if not allowed:
            raise PlaceError(f"leads to {path}, outside of {self._named(LOCAL)}")
        return str(path)

    def _remote(self, uri: str, scheme: str) -> str:
        try:
            asked = urlsplit(uri)
            segments = unquote(asked.path).replace("\\", "/").split("/")
        except ValueError as error:
            raise PlaceError(f"is no URI ({error})") from None
        if ".." in segments or "." in segments:
            raise PlaceError("holds .. or . in its path")
        for root in self.roots:
            allowed = urlsplit(root)
            same_host = (allowed.scheme.lower(), allowed.netloc) == (scheme, asked.netloc)
            if same_host and asked.path.startswith(f"{allowed.path.rstrip('/')}/"):
                return uri
        raise PlaceError(f"lies outside of {self._named(scheme)}")

    def _named(self, scheme: str) -> str:
        roots = [root for root in self.roots if _scheme(root) == scheme]
        return ", ".join(roots) if roots else f"every allowed root (none is of the scheme {scheme})"


def local_path(uri: str) -> Path:
    """The path that a local URI (file:///a/b, or plainly /a/b) means."""
    return Path(unquote(uri[len("file://") :]) if uri.lower().startswith("file://") else uri)


def is_local(uri: str) -> bool:
    """Whether the URI is a path of this machine."""
    return _scheme(uri) == LOCAL


def _scheme(uri: str) -> str:
    head, separator, _ = uri.partition("://")
    return head.lower() if separator else LOCAL
