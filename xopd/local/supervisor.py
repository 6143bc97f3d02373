"""Keep a few processes running: start them, wait until they are ready, restart those that die, end them in order.

Knows nothing of what the processes do. A process is ready when its probe says so; by default it has written its
address file and its /readyz answers 200.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from xopd.errors import UserError
from xopd.files import write_whole
from xopd.local import child
from xopd.security.credentials import callable_host
from xopd.service.lifecycle import ADDRESS_FILE, end_tasks

State = Literal["starting", "ready", "unready", "waiting", "stopping", "ended", "failed"]
RUNNING: tuple[State, ...] = ("starting", "ready", "unready")
TICK_S = 0.2
"""Seconds between two looks at the processes."""
FIRST_BACK_OFF_S = 1.0
LONGEST_BACK_OFF_S = 30.0
MAX_QUICK_DEATHS = 6
"""Deaths in a row, none of them after STEADY_S of life, before a process is given up."""
STEADY_S = 60.0
PROBE_STARTING_S = 0.2
PROBE_READY_S = 5.0
"""Seconds between two probes, before and after a process is ready."""
TAIL_LINES = 12
CRASHED = 1
"""Exit status of a Python program that ends with an exception nobody expected."""


class ProcessFailedError(UserError):
    """A process that could not be had; the message is one sentence, `tail` the last lines of its log."""

    def __init__(self, message: str, tail: Sequence[str], users_mistake: bool = False) -> None:
        """Hold the sentence and the log's end."""
        super().__init__(message)
        self.tail = tuple(tail)
        self.exit_status = 2 if users_mistake else 1
        """What a command that ends with this error returns: 2 for a user's mistake, 1 for a crash."""


@dataclass(frozen=True)
class ProcessSpec:
    """What to run, and how to tell that it is ready."""

    name: str
    role: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those of the supervisor's `base_env`."""
    argv_again: tuple[str, ...] | None = None
    """Command of its later lives. A process that has one is started again after a crash only (a signal, or status 1):
    what ends with another status has said its last word. One that has none is started again however it ended."""
    stdin: bytes | None = None
    """What it reads on standard input, at most a few kilobytes; None: nothing."""
    address_file: Path | None = None
    """Where the process writes its addresses; handed to it as XOPD_ADDRESS_FILE."""
    probe: Callable[[], Awaitable[bool]] | None = None
    """Tells whether it is ready; None asks /readyz at the `http` address of the address file."""


@dataclass
class Managed:
    """One process and what became of it."""

    spec: ProcessSpec
    state: State = "ended"
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    exit_status: int | None = None
    addresses: dict[str, str] = field(default_factory=dict)
    been_ready: bool = False
    started_at: float = 0.0
    next_start: float = 0.0
    next_probe: float = 0.0
    quick_deaths: int = 0
    log_start: int = 0
    """Size of the log (bytes) when this life began: what stands before it belongs to earlier lives."""

    @property
    def pid(self) -> int | None:
        """Process id, or None while it is not running."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None


class Supervisor:
    """Runs processes; `tick` must be called a few times a second, from the thread that made it."""

    def __init__(
        self,
        base_env: Mapping[str, str],
        on_event: Callable[[str], None],
        pid_file: Path | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        """Watch over nothing yet.

        Args:
            base_env: environment of every process.
            on_event: told one sentence whenever something happens that a person would want to know.
            pid_file: JSON file of name to process id, kept up to date.
            verify: how the certificates of processes are checked whose endpoints speak TLS.
        """
        self.base_env = dict(base_env)
        self.on_event = on_event
        self.pid_file = pid_file
        self.processes: dict[str, Managed] = {}
        self._http = httpx.AsyncClient(timeout=2.0, trust_env=False, verify=verify)

    @property
    def restarts(self) -> int:
        """Restarts of all processes so far."""
        return sum(managed.restarts for managed in self.processes.values())

    def of_role(self, role: str) -> list[Managed]:
        """The processes of one role, in the order they were started."""
        return [managed for managed in self.processes.values() if managed.spec.role == role]

    def start(self, spec: ProcessSpec) -> Managed:
        """Start a process for the first time. Raises UserError if its program cannot be run."""
        managed = self.processes[spec.name] = Managed(spec)
        self._launch(managed)
        return managed

    async def until_ready(self, needs: Sequence[tuple[Sequence[str], int]], timeout_s: float) -> None:
        """Wait until of each group of names in `needs` so many are ready.

        Raises:
            ProcessFailedError: if a group cannot reach its number any more, or has not within `timeout_s` (seconds).
        """
        groups = [([self.processes[name] for name in names], needed) for names, needed in needs]
        deadline = time.monotonic() + timeout_s
        while True:
            await self.tick()
            short = [group for group, needed in groups if sum(m.state == "ready" for m in group) < needed]
            if not short:
                return
            for group, needed in groups:
                lost = [managed for managed in group if managed.state in ("failed", "ended")]
                if len(group) - len(lost) < needed:
                    raise self.failure(lost[0])
            if time.monotonic() > deadline:
                late = next(managed for managed in short[0] if managed.state != "ready")
                raise ProcessFailedError(
                    f"{late.spec.name} was not ready within {timeout_s:g} s; its log is {late.spec.log}.",
                    log_tail(late),
                )
            await asyncio.sleep(0.1)

    async def tick(self) -> None:
        """Look after every process once: notice deaths, ask probes, start again what is due."""
        probes: list[Coroutine[Any, Any, None]] = []
        for managed in list(self.processes.values()):
            if managed.state in ("stopping", "ended", "failed"):
                continue
            if managed.state == "waiting":
                if time.monotonic() >= managed.next_start:
                    managed.restarts += 1
                    self._launch(managed)
                continue
            assert managed.process is not None
            status = managed.process.poll()
            if status is not None:
                self._died(managed, status)
            else:
                probes.append(self._probe(managed))
        # At once: a process that takes long to answer must not keep the others from being looked after.
        await asyncio.gather(*probes)

    async def stop(self, names: Sequence[str], grace_s: float) -> None:
        """SIGTERM these processes at once, wait up to `grace_s` (seconds), SIGKILL what is left of their groups.

        The others are looked after meanwhile: a last step may need a Redis that has just died.
        """
        leaving = [self.processes[name] for name in names if name in self.processes]
        for managed in leaving:
            if managed.process is not None and managed.process.poll() is None:
                managed.process.terminate()
            if managed.state != "failed":
                managed.state = "stopping" if managed.pid is not None else "ended"
        deadline = time.monotonic() + grace_s
        running = [managed.process for managed in leaving if managed.process is not None]
        looking_after = asyncio.create_task(self._tick_for_ever())
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await end_tasks([looking_after])
        for managed in leaving:
            if managed.process is not None:
                managed.exit_status = child.kill(managed.process)
            if managed.state != "failed":
                managed.state = "ended"
        self._write_pids()

    async def _tick_for_ever(self) -> None:
        while True:
            await self.tick()
            await asyncio.sleep(TICK_S)

    def kill_all(self) -> None:
        """SIGKILL every process and its group."""
        for managed in self.processes.values():
            if managed.process is not None:
                managed.exit_status = child.kill(managed.process)
            managed.state = "ended"
        self._write_pids()

    async def aclose(self) -> None:
        """Release the HTTP client."""
        await self._http.aclose()

    def failure(self, managed: Managed) -> ProcessFailedError:
        """Why a process ended, as one sentence: its own where it left one in its log."""
        name, log = managed.spec.name, managed.spec.log
        tail = log_tail(managed)
        own = next((line.removeprefix("xopd: ") for line in reversed(tail) if line.startswith("xopd: ")), None)
        if own is not None:
            return ProcessFailedError(f"{name}: {own.rstrip('.')} (log: {log}).", (), managed.exit_status == 2)
        status = managed.exit_status
        how = f"was ended by signal {-status}" if status is not None and status < 0 else f"ended with status {status}"
        return ProcessFailedError(f"{name} {how}; its log is {log}.", tail)

    def _launch(self, managed: Managed) -> None:
        spec = managed.spec
        env = {**self.base_env, **spec.env}
        if spec.address_file is not None:
            spec.address_file.unlink(missing_ok=True)
            env[ADDRESS_FILE] = str(spec.address_file)
        managed.log_start = spec.log.stat().st_size if spec.log.exists() else 0
        managed.addresses = {}
        try:
            again = spec.argv_again if managed.restarts else None
            managed.process = child.spawn(again or spec.argv, spec.log, env, stdin=spec.stdin)
        except OSError as error:
            raise UserError(f"{spec.name}: {spec.argv[0]} cannot be started ({error.strerror}).") from None
        managed.state = "starting"
        managed.exit_status = None
        managed.started_at = time.monotonic()
        managed.next_probe = 0.0
        if managed.restarts:
            self.on_event(f"{spec.name} started again, restart {managed.restarts}")
        self._write_pids()

    def _died(self, managed: Managed, status: int) -> None:
        spec = managed.spec
        assert managed.process is not None
        child.kill(managed.process)  # what its group still runs, such as an engine's workers
        managed.exit_status = status
        lived = time.monotonic() - managed.started_at
        managed.quick_deaths = 1 if lived > STEADY_S else managed.quick_deaths + 1
        # A process that never worked would fail again; one that did may only have lost Redis for a moment.
        last_word = spec.argv_again is not None and not (status < 0 or status == CRASHED)
        if last_word:
            managed.state = "ended"
        elif not managed.been_ready or managed.quick_deaths > MAX_QUICK_DEATHS:
            managed.state = "failed"
            self.on_event(f"{self.failure(managed)}")
        else:
            delay = min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * 2 ** (managed.quick_deaths - 1))
            managed.state = "waiting"
            managed.next_start = time.monotonic() + delay
            how = f"signal {-status}" if status < 0 else f"status {status}"
            self.on_event(f"{spec.name} ended with {how}; starting it again in {delay:g} s")
        self._write_pids()

    async def _probe(self, managed: Managed) -> None:
        if time.monotonic() < managed.next_probe:
            return
        ready = await (managed.spec.probe() if managed.spec.probe is not None else self._asks_readyz(managed))
        managed.next_probe = time.monotonic() + (PROBE_READY_S if ready else PROBE_STARTING_S)
        if managed.state not in RUNNING:
            return  # it was told to end while it was asked
        if ready:
            if managed.state == "starting":
                self.on_event(f"{managed.spec.name} is ready ({time.monotonic() - managed.started_at:.0f} s)")
            managed.state, managed.been_ready = "ready", True
        elif managed.state == "ready":
            managed.state = "unready"

    async def _asks_readyz(self, managed: Managed) -> bool:
        if not managed.addresses:
            managed.addresses = _read_addresses(managed.spec.address_file)
        url = http_url(managed.addresses)
        if url is None:
            return False
        try:
            return (await self._http.get(f"{url}/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    def _write_pids(self) -> None:
        if self.pid_file is None:
            return
        pids = {"supervisor": os.getpid()}
        pids |= {name: managed.pid for name, managed in self.processes.items() if managed.pid is not None}
        write_whole(self.pid_file, json.dumps(pids, indent=1))


def http_url(addresses: Mapping[str, str]) -> str | None:
    """Where a process's HTTP endpoints are, from its address file; None where it has not written that yet."""
    address = addresses.get("http")
    if not address:
        return None
    host, _, port = address.rpartition(":")
    return f"{addresses.get('scheme', 'http')}://{callable_host(host)}:{port}"


def log_tail(managed: Managed, lines: int = TAIL_LINES) -> list[str]:
    """The last lines that this life of the process wrote, without the empty ones."""
    try:
        with managed.spec.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(managed.log_start, size - 20_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    # Python's underlines of tracebacks say nothing without their line's exact width.
    return [line.rstrip() for line in text.splitlines() if line.strip(" ^~")][-lines:]


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs `python -m module` with this interpreter."""
    return (sys.executable, "-m", module, *arguments)


def _read_addresses(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return {str(name): str(value) for name, value in read.items()} if isinstance(read, dict) else {}
