"""`make soak`: train on this machine for half an hour and see whether the memory of every process stays flat.

Prints, for each process and its children (a pod's engine, say), its memory after a third of the time, when caches are
full, and at the end, and the slope of a line through all readings after that third. Exit status 1 if one grew by more
than a tenth and more than 50 MB or could not be judged, or the run ended before its time. Memory is Linux's
proportional set size: what forked processes share counts once. All readings are in runs/soak-memory.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "runs" / "soak"
SETTINGS = ["run.name=soak", "run.steps=20000", "run.checkpoint_every=20", "evals.every=0"]
SETTINGS += ["rollout.kv_cache_gb=0.0625", "student.features_in_memory_gb=0"]
"""Caches that fill slowly are made small: an engine touches its key-value cache page by page, a pod keeps clips."""
READINGS = ROOT / "runs" / "soak-memory.csv"
EVERY_S = 5.0
WARM_SHARE = 1 / 3
MOST_GROWTH, MOST_GROWTH_MB = 0.1, 50.0
MB = 2**20


def read_memory() -> dict[str, float]:
    """Memory of each process of the run, and of its children (MB)."""
    try:
        pids = json.loads((RUN / "processes" / "pids.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = {}
    for name, pid in pids.items():
        try:
            process = psutil.Process(pid)
            found[name] = process.memory_full_info().pss / MB
            for child in process.children(recursive=True) if name != "supervisor" else ():
                own = f"{name}: {child.name()}"
                found[own] = found.get(own, 0.0) + child.memory_full_info().pss / MB
        except psutil.NoSuchProcess:
            continue
    return found


def trained_steps() -> int:
    """Steps recorded so far."""
    path = RUN / "metrics.jsonl"
    return path.read_text(encoding="utf-8").count('"kind": "step"') if path.exists() else 0


def watch(run: subprocess.Popen[bytes], seconds: float, console: Console) -> list[tuple[float, str, float]]:
    """Readings (seconds since the first step, process, MB) until the time is over."""
    readings: list[tuple[float, str, float]] = []
    while not trained_steps():
        if run.poll() is not None:
            raise SystemExit("the run ended before its first step; see runs/soak.log")
        time.sleep(1.0)
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=seconds)
        while (now := time.monotonic() - began) < seconds:
            if run.poll() is not None:
                raise SystemExit(f"the run ended after {now:.0f} s; see runs/soak.log")
            readings += [(now, name, memory) for name, memory in read_memory().items()]
            progress.update(task, completed=now, description=f"{trained_steps()} steps")
            time.sleep(EVERY_S)
    return readings


def judge(readings: list[tuple[float, str, float]], warm_s: float, console: Console) -> list[str]:
    """Print the table; the processes of which it cannot be said that they did not grow after `warm_s` seconds."""
    console.print(
        f"\n\n| process | at {WARM_SHARE:.0%}, MB | at the end, MB | slope, MB/h |\n| --- | --: | --: | --: |"
    )
    doubted = []
    for name in sorted({name for _, name, _ in readings}):
        warm = [(at, memory) for at, whose, memory in readings if whose == name and at >= warm_s]
        if len(warm) < 2:  # it ended, or the time is short
            doubted.append(f"{name} (too few readings)")
            continue
        first, last = warm[0][1], statistics.median(memory for _, memory in warm[-5:])
        slope = statistics.linear_regression(*zip(*warm, strict=True)).slope * 3600
        console.print(f"| {name} | {first:.0f} | {last:.0f} | {slope:+.1f} |")
        if last - first > max(MOST_GROWTH * first, MOST_GROWTH_MB):
            doubted.append(f"{name} (grew)")
    return doubted


def main() -> None:
    """Run and judge."""
    console = Console(highlight=False, soft_wrap=True)
    parser = argparse.ArgumentParser(description="Is the memory of every process of a run flat?")
    parser.add_argument("minutes", type=float, nargs="?", default=30.0, help="how long (default: %(default)s)")
    minutes = parser.parse_args().minutes
    if not 0 < minutes < math.inf:
        parser.error(f"minutes: give a number above 0, not {minutes:g}")
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "xopd", "up", "examples/tiny/demo.yaml", "--plain", *settings]
    shutil.rmtree(RUN, ignore_errors=True)  # steps of an earlier soak must not count
    READINGS.parent.mkdir(exist_ok=True)
    with (ROOT / "runs" / "soak.log").open("wb") as log:
        run = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)  # noqa: S603 (a fixed command)
    try:
        readings = watch(run, 60 * minutes, console)
    except KeyboardInterrupt:
        raise SystemExit("soak: interrupted; the run is stopped and kept in runs/soak") from None
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(180)
    with READINGS.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("seconds", "process", "MB"), *readings])
    doubted = judge(readings, WARM_SHARE * 60 * minutes, console)
    verdict = f"not flat: {', '.join(doubted)}" if doubted else "memory is flat"
    console.print(f"\n{trained_steps()} steps in {minutes:g} min; {verdict}")
    raise SystemExit(1 if doubted else 0)


if __name__ == "__main__":
    main()
