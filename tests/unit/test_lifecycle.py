"""How a service process ends: what its exit status says, for each way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xopd.service.lifecycle import STOPPED_STATUSES

ROOT = Path(__file__).resolve().parents[2]
SERVICE = """
import asyncio
from xopd.errors import UserError
from xopd.service.lifecycle import StoppedEarlyError, run_service
async def main(stop):
    print("up", flush=True)
    {body}
run_service(main)
"""


def started(body: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stopped_before_its_end_is_told_by_the_status(signum: signal.Signals) -> None:
    process = started("await stop.wait(); raise StoppedEarlyError")
    process.send_signal(signum)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + signum
    assert process.returncode in STOPPED_STATUSES
    assert errors == ""


@pytest.mark.parametrize(
    ("body", "status"),
    [("await stop.wait()", 0), ("await stop.wait(); raise UserError('no such port; take another.')", 2)],
)
def test_other_ends(body: str, status: int) -> None:
    process = started(body)
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == status
    assert errors == ("" if status == 0 else "xopd: no such port; take another.\n")
