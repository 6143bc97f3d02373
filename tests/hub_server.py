"""A model hub on this machine: as much of its protocol as fetching a snapshot takes, over a folder of files."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "a1" * 20
OLDER = "b2" * 20
TOKEN = "hf_right"
CHUNK = 1 << 16


@dataclass
class Repository:
    """A repository's files by commit, and what its names stand for."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    access: str = "public"
    """`public`, `private` (absent without the token), `gated`, `denied` or `broken`."""


class Hub:
    """Serves repositories by their `org/name`, and keeps what it was asked for."""

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.repositories = repositories
        self.asked: list[tuple[str, str]] = []
        self.halt_after: int | None = None
        """Bytes after which a large file stops coming, with its connection open."""
        self.halted = threading.Event()
        self.released = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def fetched(self) -> set[str]:
        """Names of the files that were asked for with their content."""
        return {path.rpartition("/")[2] for method, path in self.asked if method == "GET" and "/resolve/" in path}

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        parts = path.strip("/").split("/")
        in_api = parts[:2] == ["api", "models"]
        name, rest = ("/".join(parts[2:4]), parts[4:]) if in_api else ("/".join(parts[:2]), parts[2:])
        repository = self.hub.repositories.get(name)
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.access == "private" and token is None):
            # The hub does not tell a stranger which of the two it is.
            self._refuse(401 if token is None else 404, "RepoNotFound", "Repository not found")
        elif repository.access == "gated" and token is None and not in_api:
            self._refuse(401, "GatedRepo", "Access to this model is restricted")
        elif repository.access == "denied":
            self._refuse(403, "", "Forbidden")
        elif repository.access == "broken":
            self._refuse(500, "", "Internal error")
        else:
            self._serve(repository, name, rest, body)

    def _serve(self, repository: Repository, name: str, rest: list[str], body: bool) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = repository.commits[commit]
        if rest[:1] == ["tree"]:
            self._json(
                [{"type": "file", "path": path, "size": len(data), "oid": _oid(data)} for path, data in files.items()]
            )
        elif rest[:1] == ["resolve"]:
            self._file(files["/".join(rest[2:])], commit, body)
        else:
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []})

    def _file(self, data: bytes, commit: str, body: bool) -> None:
        first = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0]) if "Range" in self.headers else 0
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.send_header("ETag", f'"{_oid(data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if body:
            self._send(data[first:])

    def _send(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            if self.hub.halt_after is not None and start >= self.hub.halt_after:
                self.hub.halted.set()
                self.hub.released.wait(30)
            try:
                self.wfile.write(data[start : start + CHUNK])
            except OSError:  # the client has gone
                return

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
