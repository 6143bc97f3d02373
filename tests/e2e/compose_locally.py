"""docker-compose.yml without containers: each service's own command, environment and health check as local processes.

Container paths become folders, services' names and ports become 127.0.0.1 and free ports; everything else is taken
from docker-compose.yml and from the service's Dockerfile as it stands there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from xopd.local import child
from xopd.local.embedded_redis import HOST, embedded_binary, free_port

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}|\$\$")
PACKAGES = [ROOT, *(ROOT / "services" / name for name in ("rollout", "teacher", "trainer"))]
# What a machine needs so that its Python starts at all; everything else comes from the files.
INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
REDIS_CLI = """#!{python}
import os, sys, redis
port = int(sys.argv[sys.argv.index("-p") + 1])
print("PONG" if redis.Redis(port=port, password=os.environ["REDISCLI_AUTH"]).ping() else "no")
"""
# In a mount namespace of its own the process sees a read-only root; only the folders named first can be written.
READ_ONLY = 'while [ "$1" != -- ]; do mount --bind "$1" "$1"; shift; done; shift; mount -o remount,bind,ro /; exec "$@"'


def interpolate(node: Any, variables: Mapping[str, str]) -> Any:
    """`${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$` as compose reads them."""
    if isinstance(node, dict):
        return {key: interpolate(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolate(value, variables) for value in node]
    if not isinstance(node, str):
        return node

    def _value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, kind, rest = match.groups()
        if variables.get(name):
            return variables[name]
        if kind == "?":
            raise KeyError(f"{name}: {rest}")
        return rest or ""

    return VARIABLE.sub(_value, node)


def read_compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """The services of docker-compose.yml."""
    services: dict[str, Any] = interpolate(yaml.safe_load((ROOT / "docker-compose.yml").read_text()), variables)
    return dict(services["services"])


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile's last stage."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]
    last = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    return found[last:]


class LocalService:
    """One container of one service, as a process."""

    def __init__(
        self, name: str, about: dict[str, Any], folder: Path, mounts: dict[str, Path], read_only: bool
    ) -> None:
        """Read what it runs; nothing is started yet."""
        self.name, self.about, self.folder = name, about, folder
        self.tmp = folder / "tmp"
        self.tmp.mkdir(parents=True)
        self.log = folder / "log.txt"
        self.mounts, self.read_only = mounts, read_only
        self.ports = {"8080": free_port(), "50051": free_port(), "6379": free_port()}
        self.process: subprocess.Popen[bytes] | None = None
        self.siblings: list[LocalService] = []
        """The other containers of its service."""

    def localised(self, text: str, others: Mapping[str, LocalService]) -> str:
        """The same words, with this machine's folders, addresses and ports."""
        # All at once: a folder here may itself lie under a path that is mapped.
        paths = "|".join(self.mounts)
        text = re.sub(rf"(?<![\w./])({paths})(?![\w.])", lambda match: str(self.mounts[match[1]]), text)
        for name, other in others.items():
            for port, local in other.ports.items():
                # A name in quotes stands in a list: what resolves to several addresses there is several entries here.
                several = ", ".join(f'"{HOST}:{each.ports[port]}"' for each in (other, *other.siblings))
                text = re.sub(rf'"{name}:{port}"', several, text)
                text = re.sub(rf"\b{name}:{port}\b", f"{HOST}:{local}", text)
        text = text.replace("0.0.0.0", HOST)
        for port, local in self.ports.items():
            text = re.sub(rf"(?<=127\.0\.0\.1:){port}\b|^{port}$|(?<=-p ){port}\b", str(local), text)
        return text

    def environment(self, others: Mapping[str, LocalService]) -> dict[str, str]:
        """The image's and the service's environment."""
        image: dict[str, str] = {}
        if "build" in self.about:
            for name, rest in instructions(ROOT / self.about["build"]["dockerfile"]):
                if name == "ENV":
                    image |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        image.pop("PATH", None)
        own = {**image, **self.about.get("environment", {})}
        base = {name: os.environ[name] for name in INHERITED if name in os.environ}
        base["PATH"] = f"{self.folder}:{base['PATH']}"
        base |= {"PYTHONPATH": os.pathsep.join(map(str, PACKAGES)), "TMPDIR": str(self.tmp), "OMP_NUM_THREADS": "1"}
        return base | {name: self.localised(str(value), others) for name, value in own.items()}

    def command(self, others: Mapping[str, LocalService]) -> list[str]:
        """The image's entry point and the service's command."""
        words = [self.localised(str(word), others) for word in self.about["command"]]
        if "redis-server" in words:
            # The image's server listens on 6379, on every interface of its own network.
            words[words.index("redis-server")] = embedded_binary()
            return [*words, "--port", str(self.ports["6379"]), "--bind", HOST]
        entry = dict(instructions(ROOT / self.about["build"]["dockerfile"]))["ENTRYPOINT"]
        return [*_here(json.loads(entry)), *words]

    def start(self, others: Mapping[str, LocalService]) -> None:
        """Start it, and write what stands in for programs of its image."""
        cli = self.folder / "redis-cli"
        cli.write_text(REDIS_CLI.format(python=sys.executable))
        cli.chmod(0o755)
        argv, environment = self.command(others), self.environment(others)
        if self.read_only:
            assert self.about["read_only"] is True
            argv = read_only_root([self.tmp, *self._writable()], argv)
        self.process = child.spawn(argv, self.log, environment)

    def _writable(self) -> list[Path]:
        targets = [volume.split(":")[1:] for volume in self.about.get("volumes", [])]
        return [self.mounts[target[0]] for target in targets if target[1:] != ["ro"]]

    def healthy(self, others: Mapping[str, LocalService]) -> bool:
        """Run its health check's own command once."""
        kind, *words = self.about["healthcheck"]["test"]
        words = [self.localised(word, others) for word in words]
        argv = ["sh", "-c", words[0]] if kind == "CMD-SHELL" else _here(words)
        environment = self.environment(others)
        return subprocess.run(argv, env=environment, capture_output=True, timeout=30).returncode == 0

    def wait_healthy(self, others: Mapping[str, LocalService], timeout_s: float = 180.0) -> None:
        """Wait for its first passed health check."""
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while not self.healthy(others):
            assert self.process.poll() is None, f"{self.name} ended:\n{self.tail()}"
            assert time.monotonic() < deadline, f"{self.name} is not healthy:\n{self.tail()}"
            time.sleep(0.3)

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        assert self.process is not None
        return child.stop(self.process, 60.0)


def read_only_root(writable: list[Path], argv: list[str]) -> list[str]:
    """`argv` under a read-only root."""
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", READ_ONLY, "sh"]
    return [*unshare, *map(str, writable), "--", *argv]


def can_have_a_read_only_root(folder: Path) -> bool:
    """Whether this machine lets us make one: it needs root and `unshare`."""
    if shutil.which("unshare") is None:
        return False
    probe = read_only_root([folder], ["sh", "-c", f"! touch {ROOT}/.probe && touch {folder}/.probe"])
    return subprocess.run(probe, capture_output=True, timeout=30).returncode == 0


def _here(words: list[str]) -> list[str]:
    return [sys.executable, *words[1:]] if words[0] == "python" else words
