"""`xopd scale`, and how a session follows it, with real child processes in the services' place."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.unit.test_cli import assert_one_sentence, xopd
from tests.unit.test_supervisor import SERVICE
from xopd.errors import UserError
from xopd.local.fleet import Fleet, teacher_address, variable, write_teacher_list
from xopd.local.rundir import RunFolder
from xopd.local.scaling import Scaler, ask_for
from xopd.local.supervisor import ProcessSpec, Supervisor

DRAINS = SERVICE.replace(
    "server.serve_forever()", "signal.signal(signal.SIGTERM, lambda *_: os._exit(0)); server.serve_forever()"
)


class Running:
    """A run of one rollout pod and one teacher, as `xopd up` has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)
        self.folder.processes.mkdir(parents=True)
        self.events: list[str] = []
        self.supervisor = Supervisor(dict(os.environ), self.events.append, self.folder.processes / "pids.json")
        teachers = {index: self.spec("teacher", index) for index in range(4)}
        more: dict[str, Callable[[int], ProcessSpec]] = {
            "rollout": lambda index: self.spec("rollout", index),
            "teacher": teachers.__getitem__,
        }
        self.fleet = Fleet(
            redis=(),
            teachers=(teachers[0],),
            pods=(self.spec("rollout", 0),),
            trainer=self.spec("trainer", 0),
            more=more,
            grace_s={"rollout": 20.0, "teacher": 20.0},
            teacher_list=self.folder.processes / "teachers",
        )
        write_teacher_list(self.fleet.teacher_list, self.fleet.teachers)
        self.scaler = Scaler(self.fleet, self.folder, self.events.append)
        for spec in (*self.fleet.teachers, *self.fleet.pods):
            self.supervisor.start(spec)

    def spec(self, role: str, index: int) -> ProcessSpec:
        name = f"{role}-{index}"
        return ProcessSpec(
            name,
            role,
            (sys.executable, "-c", DRAINS),
            self.folder.path / f"{name}.log",
            env={variable("teacher", "port"): str(7100 + index)},
            address_file=self.folder.processes / f"{name}.json",
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while not condition():
                await self.supervisor.tick()
                self.scaler.follow(self.supervisor)
                await asyncio.sleep(0.02)

    def states(self, role: str) -> dict[str, str]:
        return {managed.spec.name: managed.state for managed in self.supervisor.of_role(role)}

    def listed(self) -> list[str]:
        return self.fleet.teacher_list.read_text().splitlines()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    run = Running(tmp_path / "run")
    yield run
    await run.scaler.aclose()
    run.supervisor.kill_all()
    await run.supervisor.aclose()


async def test_pods_come_and_go(running: Running) -> None:
    await running.until(lambda: set(running.states("rollout").values()) == {"ready"})
    assert ask_for(running.folder, {"rollout": 3}) == {"rollout": 3}
    assert ask_for(running.folder, {"teacher": 2}) == {"rollout": 3, "teacher": 2}
    everyone = {"rollout-0": "ready", "rollout-1": "ready", "rollout-2": "ready"}
    await running.until(lambda: running.states("rollout") == everyone)
    await running.until(lambda: running.states("teacher") == {"teacher-0": "ready", "teacher-1": "ready"})
    assert running.listed() == ["127.0.0.1:7100", "127.0.0.1:7101"]

    ask_for(running.folder, {"rollout": 1, "teacher": 1})
    await running.until(lambda: running.states("teacher") == {"teacher-0": "ready", "teacher-1": "ended"})
    await running.until(lambda: list(running.states("rollout").values()) == ["ready", "ended", "ended"])
    assert running.listed() == [teacher_address(running.fleet.teachers[0])]
    for name in ("rollout-1", "rollout-2", "teacher-1"):
        assert running.supervisor.processes[name].exit_status == 0  # SIGTERM, and time to drain: not killed
        await running.until(lambda name=name: f"{name} has left, in order" in running.events)  # type: ignore[misc]

    ask_for(running.folder, {"rollout": 2})
    await running.until(lambda: running.states("rollout")["rollout-1"] == "ready")
    assert running.states("rollout")["rollout-2"] == "ended"


async def test_a_pod_that_dies_is_started_again_at_the_new_number(running: Running) -> None:
    ask_for(running.folder, {"rollout": 2})
    await running.until(lambda: list(running.states("rollout").values()) == ["ready", "ready"])
    os.kill(running.supervisor.processes["rollout-1"].pid or 0, signal.SIGKILL)
    await running.until(lambda: running.supervisor.processes["rollout-1"].restarts == 1)
    await running.until(lambda: list(running.states("rollout").values()) == ["ready", "ready"])


async def test_what_an_earlier_life_was_asked_for_is_forgotten(running: Running) -> None:
    ask_for(running.folder, {"rollout": 2})
    later = Scaler(running.fleet, running.folder, running.events.append)
    later.follow(running.supervisor)
    assert list(running.states("rollout")) == ["rollout-0"]


def test_a_run_that_is_not_under_way_is_one_sentence(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(UserError, match="no `xopd up` runs this"):
        ask_for(folder, {"rollout": 2})
    folder.processes.mkdir()
    (folder.processes / "pids.json").write_text(json.dumps({"supervisor": 2**22 + 1}))  # above any process id
    with pytest.raises(UserError, match="no `xopd up` runs this"):
        ask_for(folder, {"rollout": 2})


def test_mistakes_on_the_command_line_are_one_sentence(tmp_path: Path) -> None:
    for word in ("rollout=0", "rollout", "trainer=2", "teacher=1000", "rollout=-1"):
        assert_one_sentence(xopd("scale", str(tmp_path), word), f"{word!r} is not ROLE=N")
    assert_one_sentence(xopd("scale", str(tmp_path), "rollout=2"), "no `xopd up` runs this on this machine")
    assert xopd("scale", str(tmp_path)).returncode == 2
    (tmp_path / "config.yaml").write_text(
        "data: {manifest: a}\nstudent: {path: b}\nteacher: {path: c, endpoints: ['teacher:7100']}\n"
    )
    assert_one_sentence(xopd("scale", str(tmp_path), "teacher=2"), "its teachers run elsewhere")
