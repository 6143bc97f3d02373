"""What a view of a run is: told of events, shown the processes and the trainer's status about twice a second."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import httpx
from pydantic import ValidationError

from xopd.local.supervisor import Managed, Supervisor, http_url
from xopd.report.records import TrainerStatus
from xopd.security import Credentials
from xopd.security.bearer import HEADER, bearer
from xopd.security.tls import client_context

EVENTS_SHOWN = 6


@dataclass
class Scene:
    """Everything a view shows."""

    run: str
    steps: int
    """Steps that the run will take."""
    started: float = field(default_factory=time.monotonic)
    status: TrainerStatus | None = None
    """Newest answer of the trainer; None before the first."""
    processes: dict[str, Managed] = field(default_factory=dict)
    notes_shown: int = 0
    events: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=EVENTS_SHOWN))
    """Seconds since the start, and a sentence."""

    def take_notes(self) -> list[str]:
        """The trainer's notes that were not shown yet."""
        notes = [] if self.status is None else self.status.notes[self.notes_shown :]
        self.notes_shown += len(notes)
        return notes

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
        return PHASES.get(self.status.phase, self.status.phase.replace("_", " "))


PHASES = {
    "teacher_test": "testing the teachers",
    "teacher_eval": "evaluating the text-only teacher",
    "base_eval": "evaluating the base student",
    "dev_eval": "evaluating on the dev split",
    "final_eval": "evaluating the final student",
    "exporting": "writing the checkpoint",
}


class View(Protocol):
    """A way to watch a run."""

    def event(self, sentence: str) -> None:
        """Something happened that a person would want to know."""
        ...

    async def show(self, supervisor: Supervisor, credentials: Credentials) -> None:
        """Show the run until cancelled; `credentials` are those that its services ask for."""
        ...


class StatusReader:
    """Asks the trainer how it is doing."""

    def __init__(self, credentials: Credentials) -> None:
        """Open an HTTP client that shows the token and trusts the authorities of `credentials`."""
        headers = {} if credentials.token is None else {HEADER: bearer(credentials.token)}
        self._http = httpx.AsyncClient(timeout=2.0, trust_env=False, headers=headers, verify=verify_by(credentials))

    async def update(self, scene: Scene, supervisor: Supervisor) -> None:
        """Refresh `scene`; an answer that does not come leaves the old one."""
        scene.processes = supervisor.processes
        trainer = supervisor.processes.get("trainer")
        status = await self.ask(http_url(trainer.addresses) if trainer is not None else None)
        scene.status = status or scene.status

    async def ask(self, url: str | None) -> TrainerStatus | None:
        """The status of the trainer at `url`; None where it does not answer, or is not there yet."""
        if not url:
            return None
        try:
            answer = await self._http.get(f"{url}/status")
            return TrainerStatus.model_validate(answer.json()) if answer.status_code == 200 else None
        except (httpx.HTTPError, ValidationError, ValueError):
            return None

    async def aclose(self) -> None:
        """Close the HTTP client."""
        await self._http.aclose()


def verify_by(credentials: Credentials) -> ssl.SSLContext | bool:
    """How httpx checks certificates: by the authorities given. Raises UserError where they cannot be read."""
    return True if credentials.authorities is None else client_context(credentials.authorities)


async def keep_reading(reader: StatusReader, scene: Scene, supervisor: Supervisor, every_s: float) -> None:
    """One refresh, then a pause of `every_s` (seconds)."""
    await reader.update(scene, supervisor)
    await asyncio.sleep(every_s)
