"""What it costs to write a step down, as the ledger grows: dispatch and training of 256 groups, each fsynced.

Prints, for ledgers of more and more groups, the seconds a step and their ratio to an empty ledger's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import typer

from xopd.ledger import Ledger, TrainedGroup, ledger_path
from xopd.service.machine import describe_machine

GROUPS, RESPONSES, STEPS = 256, 8, 5


def book(ledger: Ledger, step: int) -> float:
    """Write one step down; returns the seconds it took."""
    names = [f"run-s{step}-g{index}" for index in range(GROUPS)]
    began = time.perf_counter()
    ledger.dispatched(step, dict.fromkeys(names, RESPONSES))
    ledger.trained(step, [TrainedGroup(name, name.encode(), RESPONSES, True) for name in names], 0)
    return time.perf_counter() - began


def main(most: int = 1_000_000) -> None:
    """Book steps in ledgers of up to `most` groups."""
    print(f"{'groups':>10}  {'seconds a step':>14}  ratio")
    empty = 0.0
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(ledger_path(Path(folder)))
        ledger.begin_life("run", 0)
        step = 0
        for size in (0, most // 100, most // 10, most):
            while step * GROUPS < size:
                step += 1
                book(ledger, step)
            seconds = statistics.median(book(ledger, step + further) for further in range(1, STEPS + 1))
            step += STEPS
            empty = empty or seconds
            print(f"{size:>10,}  {seconds:>14.4f}  {seconds / empty:.2f}")
        ledger.close()
    print(describe_machine())


if __name__ == "__main__":
    typer.run(main)
