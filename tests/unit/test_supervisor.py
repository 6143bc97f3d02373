"""The supervisor with real child processes: readiness, restarts, order of ends, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from xopd.errors import UserError
from xopd.local import child, supervisor
from xopd.local.supervisor import ProcessFailedError, ProcessSpec, Supervisor

SERVICE = """
import http.server, json, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
path = os.environ["XOPD_ADDRESS_FILE"]
open(path + ".part", "w").write(json.dumps({"pid": os.getpid(), "http": f"127.0.0.1:{server.server_port}"}))
os.rename(path + ".part", path)
print("listening", flush=True)
server.serve_forever()
"""


def spec(tmp_path: Path, name: str, code: str) -> ProcessSpec:
    return ProcessSpec(
        name,
        "service",
        (sys.executable, "-c", code),
        tmp_path / f"{name}.log",
        address_file=tmp_path / f"{name}.json",
    )


@pytest.fixture
async def watched(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_BACK_OFF_S", 0.05)
    events: list[str] = []
    running = Supervisor(dict(os.environ), events.append, tmp_path / "pids.json")
    running.events = events  # type: ignore[attr-defined]
    yield running
    running.kill_all()
    await running.aclose()


async def until(running: Supervisor, condition: Callable[[], bool]) -> None:
    async def _ticking() -> None:
        while not condition():
            await running.tick()
            await asyncio.sleep(0.02)

    await asyncio.wait_for(_ticking(), 30)


async def test_a_service_becomes_ready_and_is_listed(watched, tmp_path):
    managed = watched.start(spec(tmp_path, "a", SERVICE))
    await watched.until_ready([(["a"], 1)], 30)
    assert managed.state == "ready"
    assert json.loads((tmp_path / "pids.json").read_text())["a"] == managed.pid
    assert os.getsid(managed.pid) == managed.pid  # a terminal's Ctrl-C does not reach it
    await watched.stop(["a"], 5)
    assert managed.state == "ended"
    assert "a" not in json.loads((tmp_path / "pids.json").read_text())


async def test_a_killed_service_is_started_again_and_counted(watched, tmp_path):
    managed = watched.start(spec(tmp_path, "a", SERVICE))
    await watched.until_ready([(["a"], 1)], 30)
    first = managed.pid
    os.kill(first, signal.SIGKILL)
    await until(watched, lambda: managed.restarts == 1 and managed.state == "ready")
    assert managed.pid != first
    assert watched.restarts == 1
    assert any("signal 9" in event for event in watched.events)
    assert (tmp_path / "a.log").read_text().count("listening") == 2  # the log is continued


async def test_a_service_that_never_works_is_given_up_with_its_sentence(watched, tmp_path):
    code = "import sys; sys.stderr.write('noise\\nxopd: the teacher has no weights; give some.\\n'); sys.exit(2)"
    watched.start(spec(tmp_path, "a", code))
    with pytest.raises(ProcessFailedError, match=r"^a: the teacher has no weights; give some \(log: .*a\.log\)\.$"):
        await watched.until_ready([(["a"], 1)], 30)
    assert watched.restarts == 0


async def test_a_crash_is_told_with_the_end_of_its_log(watched, tmp_path):
    watched.start(spec(tmp_path, "a", "print('working'); raise RuntimeError('no memory')"))
    with pytest.raises(ProcessFailedError, match="ended with status 1") as caught:
        await watched.until_ready([(["a"], 1)], 30)
    assert caught.value.tail[-1] == "RuntimeError: no memory"


async def test_one_of_two_is_enough_where_one_is_asked(watched, tmp_path):
    watched.start(spec(tmp_path, "broken", "raise SystemExit(1)"))
    watched.start(spec(tmp_path, "good", SERVICE))
    await watched.until_ready([(["broken", "good"], 1)], 30)
    with pytest.raises(ProcessFailedError, match="broken ended with status 1"):
        await watched.until_ready([(["broken", "good"], 2)], 30)


async def test_a_wait_is_bounded(watched, tmp_path):
    watched.start(spec(tmp_path, "a", "import time; time.sleep(600)"))
    with pytest.raises(ProcessFailedError, match=r"a was not ready within 0\.3 s"):
        await watched.until_ready([(["a"], 1)], 0.3)


async def test_a_service_that_keeps_dying_is_given_up(watched, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "MAX_QUICK_DEATHS", 2)
    managed = watched.start(spec(tmp_path, "a", SERVICE))
    for _ in range(3):
        await until(watched, lambda: managed.state == "ready")
        os.kill(managed.pid, signal.SIGKILL)
        await until(watched, lambda: managed.state in ("waiting", "failed"))
    assert managed.state == "failed"
    assert managed.restarts == 2


async def test_one_with_a_last_word_is_started_again_after_a_crash_only(watched, tmp_path):
    again = (sys.executable, "-c", SERVICE.replace("listening", "going on") + "\n")
    managed = watched.start(replace(spec(tmp_path, "a", SERVICE), argv_again=again))
    await watched.until_ready([(["a"], 1)], 30)
    os.kill(managed.pid, signal.SIGKILL)
    await until(watched, lambda: managed.restarts == 1 and managed.state == "ready")
    assert "going on" in (tmp_path / "a.log").read_text()
    last = replace(spec(tmp_path, "b", "raise SystemExit(2)"), argv_again=again)
    said = watched.start(last)
    await until(watched, lambda: said.state == "ended")
    assert (said.restarts, said.exit_status) == (0, 2)


async def test_others_are_looked_after_while_one_is_stopped(watched, tmp_path):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    needed = watched.start(spec(tmp_path, "needed", SERVICE))
    await watched.until_ready([(["needed"], 1)], 30)
    watched.start(spec(tmp_path, "deaf", code))
    await until(watched, lambda: (tmp_path / "deaf.log").read_text() == "deaf\n")
    os.kill(needed.pid, signal.SIGKILL)
    stopping = asyncio.create_task(watched.stop(["deaf"], 20.0))
    while needed.restarts == 0 or needed.state != "ready":
        assert not stopping.done()
        await asyncio.sleep(0.02)
    os.kill(watched.processes["deaf"].pid, signal.SIGKILL)
    await stopping
    assert watched.processes["deaf"].state == "ended"
    assert needed.state == "ready"


async def test_what_ignores_sigterm_is_killed_with_its_children(watched, tmp_path):
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(c.pid, flush=True); time.sleep(600)"
    )
    log = tmp_path / "a.log"
    managed = watched.start(spec(tmp_path, "a", code))
    await until(watched, lambda: log.exists() and log.read_text().endswith("\n"))
    grandchild = int(log.read_text())
    await watched.stop(["a"], 0.3)
    assert managed.exit_status == -signal.SIGKILL
    # The signal has been sent; a busy machine takes a moment to carry it out.
    await until(watched, lambda: not _alive(grandchild))


async def test_a_program_that_is_not_there_is_one_sentence(watched, tmp_path):
    with pytest.raises(UserError, match="cannot be started"):
        watched.start(ProcessSpec("a", "service", ("/nowhere/program",), tmp_path / "a.log"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parent-death signals are Linux's")
def test_children_do_not_outlive_a_killed_starter(tmp_path):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from xopd.local import child\n"
        f"p = child.spawn([sys.executable, '-c', 'import time; time.sleep(600)'], Path({str(tmp_path / 'c.log')!r}))\n"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    orphan = int(starter.stdout.readline())
    assert _alive(orphan)
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 20
    while _alive(orphan) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(orphan)


def test_stop_returns_the_exit_status(tmp_path):
    process = child.spawn([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "a.log")
    assert child.stop(process, 10) == -signal.SIGTERM
    assert child.stop(process, 10) == -signal.SIGTERM


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
