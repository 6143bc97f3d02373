"""What a view of a run shows, how it is kept up to date, and what every kind of view has in common."""

from __future__ import annotations

import asyncio
import ssl
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field

import httpx
from pydantic import ValidationError
from rich.console import Console

from xopd.local.supervisor import Managed, Supervisor, http_url
from xopd.security import Credentials
from xopd.security.tls import client_context
from xopd.security.token import HEADER, bearer
from xopd.status.model import RunStatus

EVENTS_SHOWN = 6
EVERY_S = 0.5
"""Seconds between two looks at the run."""


@dataclass
class Scene:
    """Everything a view shows."""

    run: str
    steps: int
    """Steps that the run will take."""
    started: float = field(default_factory=time.monotonic)
    status: RunStatus | None = None
    """Newest answer of the trainer; None before the first."""
    processes: dict[str, Managed] = field(default_factory=dict)
    events: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=EVENTS_SHOWN))
    """Seconds since the start, and a sentence."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since `xopd up` began."""
        return time.monotonic() - self.started

    @property
    def phase(self) -> str:
        """What is going on, for people."""
        trainer = self.processes.get("trainer")
        if trainer is not None and trainer.state == "stopping":
            return "stopping: the trainer writes a checkpoint"
        if any(managed.state == "stopping" for managed in self.processes.values()):
            return "stopping services"
        if self.status is None:
            return "starting the trainer" if trainer is not None else "starting services"
        return self.status.doing


class View(ABC):
    """A way to watch a run."""

    def __init__(self, console: Console, scene: Scene) -> None:
        """Show `scene` on `console`."""
        self.console = console
        self.scene = scene
        self._notes_told = 0

    @abstractmethod
    def event(self, sentence: str) -> None:
        """Something happened that a person would want to know."""

    @abstractmethod
    def refresh(self) -> None:
        """Show the scene as it is now."""

    async def show(self, supervisor: Supervisor, credentials: Credentials) -> None:
        """Show the run until cancelled; `credentials` are those that its services ask for."""
        reader = StatusReader(credentials)
        self.scene.processes = supervisor.processes
        try:
            while True:
                trainer = supervisor.processes.get("trainer")
                status = await reader.ask(http_url(trainer.addresses) if trainer is not None else None)
                self.scene.status = status or self.scene.status  # an answer that does not come leaves the old one
                self.tell_notes()
                self.refresh()
                await asyncio.sleep(EVERY_S)
        finally:
            await reader.aclose()

    def tell_notes(self) -> None:
        """Make an event of each of the trainer's notes that was not told yet."""
        for note in self.scene.status.notes[self._notes_told :] if self.scene.status is not None else ():
            self.event(note)
            self._notes_told += 1


class StatusReader:
    """Asks the trainer how it is doing."""

    def __init__(self, credentials: Credentials) -> None:
        """Open an HTTP client that shows the token and trusts the authorities of `credentials`."""
        headers = {} if credentials.token is None else {HEADER: bearer(credentials.token)}
        self._http = httpx.AsyncClient(timeout=2.0, trust_env=False, headers=headers, verify=verify_by(credentials))

    async def ask(self, url: str | None) -> RunStatus | None:
        """The status of the trainer at `url`; None where it does not answer, or is not there yet."""
        if not url:
            return None
        try:
            answer = await self._http.get(f"{url}/status")
            return RunStatus.model_validate_json(answer.content) if answer.status_code == 200 else None
        except (httpx.HTTPError, ValidationError):
            return None

    async def aclose(self) -> None:
        """Close the HTTP client."""
        await self._http.aclose()


def verify_by(credentials: Credentials) -> ssl.SSLContext | bool:
    """How httpx checks certificates: by the authorities given. Raises UserError where they cannot be read."""
    return True if credentials.authorities is None else client_context(credentials.authorities)
