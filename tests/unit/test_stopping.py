"""How a command that runs processes is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import asyncio, os
from xopd.local.stopping import Stop
from xopd.local.supervisor import Supervisor
async def main():
    stop = Stop()
    stop.catch_signals(Supervisor(dict(os.environ), print), print, "first things first")
    print("up", flush=True)
    await stop.asked.wait()
    print("signal", stop.signal, flush=True)
asyncio.run(main())
"""


FROM_A_TERMINAL = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
"""
"""The tests themselves may run in the background or under nohup, and what is ignored there is inherited."""


def started(before: str = FROM_A_TERMINAL) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", before + COMMAND], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_for_the_end(signum):
    process = started()
    process.send_signal(signum)
    output, _ = process.communicate(timeout=20)
    assert "stopping: first things first" in output
    assert f"signal {signum.value}" in output


def test_under_nohup_a_run_outlives_its_terminal():
    process = started("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert f"signal {signal.SIGTERM.value}" in output
