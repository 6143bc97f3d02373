"""More and fewer pods while `xopd up` runs: `xopd scale` writes what is wanted, the session follows it.

A pod that leaves is sent SIGTERM and drains: it finishes what it has claimed or gives it back. A teacher leaves the
trainer's list first.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable

from xopd.errors import UserError
from xopd.files import write_whole
from xopd.local.fleet import Fleet, write_teacher_list
from xopd.local.rundir import RunFolder
from xopd.local.supervisor import Managed, ProcessSpec, Supervisor
from xopd.service.lifecycle import end_tasks

MOST = 256
"""Most pods of one role that may be asked for on one machine."""


def ask_for(folder: RunFolder, wanted: dict[str, int]) -> dict[str, int]:
    """Ask the `xopd up` of `folder` for so many pods by role; roles that are not named stay as they are.

    Returns:
        Everything asked for so far.

    Raises:
        UserError: if no `xopd up` runs there.
    """
    if not _is_running(folder):
        raise UserError(
            f"{folder.path}: no `xopd up` runs this on this machine; start it with --resume, or scale the pods of a"
            " cluster with its own tools (docs/DEPLOY.md)."
        )
    asked = _read(folder) | wanted
    write_whole(folder.scale, json.dumps(asked))
    return asked


class Scaler:
    """Brings the number of pods to what is asked for, a little at each call of `follow`."""

    def __init__(self, fleet: Fleet, folder: RunFolder, on_event: Callable[[str], None]) -> None:
        """Forget what was asked of an earlier life."""
        self.fleet = fleet
        self.folder = folder
        self.on_event = on_event
        self._wanted: dict[str, int] = {}
        self._listed = list(fleet.teachers)
        self._leaving: set[asyncio.Task[None]] = set()
        folder.scale.unlink(missing_ok=True)

    def follow(self, supervisor: Supervisor) -> None:
        """Start what is missing and send away what is too many. Needs a running event loop."""
        wanted = {role: number for role, number in _read(self.folder).items() if role in self.fleet.more}
        for role, number in wanted.items():
            if number != self._wanted.get(role):
                self.on_event(f"{role} pods wanted: {number}")
            self._follow_role(supervisor, role, number)
        self._wanted = wanted
        if "teacher" in wanted:
            self._list_teachers(supervisor)

    async def aclose(self) -> None:
        """Leave those that are still leaving to others."""
        await end_tasks(self._leaving)

    def _follow_role(self, supervisor: Supervisor, role: str, number: int) -> None:
        there = supervisor.processes
        for index in range(number):
            spec = self.fleet.more[role](index)
            if spec.name not in there or there[spec.name].state == "ended":
                supervisor.start(spec)
        for managed in _staying(supervisor, role)[number:]:
            managed.state = "stopping"
            self._leaving.add(asyncio.create_task(self._send_away(supervisor, managed.spec)))

    async def _send_away(self, supervisor: Supervisor, spec: ProcessSpec) -> None:
        if spec.role == "teacher":
            self._list_teachers(supervisor)
        await supervisor.stop([spec.name], self.fleet.grace_s[spec.role])
        status = supervisor.processes[spec.name].exit_status
        self.on_event(f"{spec.name} has left" + (f" with status {status}" if status else ", in order"))

    def _list_teachers(self, supervisor: Supervisor) -> None:
        listed = [managed.spec for managed in _staying(supervisor, "teacher")]
        if listed != self._listed:
            write_teacher_list(self.fleet.teacher_list, listed)
            self._listed = listed


def _staying(supervisor: Supervisor, role: str) -> list[Managed]:
    """Pods of a role that run or shall run again, by number."""
    pods = [managed for managed in supervisor.of_role(role) if managed.state not in ("stopping", "ended", "failed")]
    return sorted(pods, key=lambda managed: int(managed.spec.name.rpartition("-")[2]))


def _read(folder: RunFolder) -> dict[str, int]:
    try:
        read = json.loads(folder.scale.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(role): int(number) for role, number in read.items()}


def _is_running(folder: RunFolder) -> bool:
    try:
        os.kill(int(json.loads((folder.processes / "pids.json").read_text(encoding="utf-8"))["supervisor"]), 0)
    except (OSError, ValueError, KeyError):
        return False
    return True
