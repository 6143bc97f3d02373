"""Does a run go faster with more pods, and is anything lost when they leave?

    python bench/scaling.py [--rollout 3] [--teacher 2] [--steps 15] [--batch 48] [--out DIR]

One real run of the tiny world through `xopd up`, in three phases of `--steps` steps: one rollout pod and one teacher,
then more of both (`xopd scale`, while the run is paused: they take long to load), then one and one again (`xopd scale`
while it trains; they drain). Prints tokens/s of each stage, steps' seconds, and how many cores the run had and used:
pods can only help where there are cores for them. The first phase stands twice, which shows the noise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "examples/tiny/demo.yaml"
STAGES = ("rollout", "teacher", "trainer")
PATIENCE_S = 600.0
WARM_UP = 5
"""Steps left out at the start of the run and after each change: they compile, load weights and fill caches."""
console = Console()


@dataclass
class Phase:
    """What was measured in some steps."""

    pods: str
    steps: list[dict[str, Any]]
    seconds: float
    cores_used: float
    """CPU seconds of the run's processes a second."""
    cores_others: float
    """The same of everything else on this machine."""

    def tokens_per_s(self, stage: str) -> float:
        """Median over the steps."""
        return statistics.median(record["tokens_per_s"][stage] for record in self.steps)

    def seconds_of(self, stage: str) -> float:
        """Median over the steps."""
        return statistics.median(record["seconds"][stage] for record in self.steps)


class Run:
    """`xopd up` on the tiny world."""

    def __init__(self, out: Path, steps: int, batch: int) -> None:
        """Start it."""
        self.folder = out / "runs" / "scaling"
        settings = [
            f"run.directory={out / 'runs'}", "run.name=scaling", f"run.steps={steps}", "run.checkpoint_every=10",
            f"trainer.batch_prompts={batch}", "rollout.pods=1", "evals.every=0", "data.eval_split=dev",
        ]  # fmt: skip
        options = [word for setting in settings for word in ("--set", setting)]
        self.output = out / "up.txt"
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "xopd", "up", str(DEMO), "--overwrite", "--plain", *options],
                stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip

    def until(self, wanted: Callable[[], bool]) -> None:
        """Wait for it while the run goes on."""
        deadline = time.monotonic() + PATIENCE_S
        while not wanted():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the run did not come to it:\n{self.output.read_text()[-3000:]}")
            time.sleep(0.05)

    def steps(self) -> list[dict[str, Any]]:
        """Step records so far."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [record for line in lines if line.endswith("}") and (record := json.loads(line))["kind"] == "step"]

    def says(self, *sentences: str) -> bool:
        """Whether all of these were printed."""
        text = self.output.read_text(errors="replace")
        return all(sentence in text for sentence in sentences)

    def scale(self, rollout: int, teacher: int) -> None:
        """Ask for so many pods."""
        words = [str(self.folder), f"rollout={rollout}", f"teacher={teacher}"]
        subprocess.run([sys.executable, "-m", "xopd", "scale", *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)

    def tell_trainer(self, path: str) -> None:
        """POST /pause or /resume."""
        address = json.loads((self.folder / "processes" / "trainer.json").read_text())["http"]
        httpx.post(f"http://{address}{path}", timeout=30, trust_env=False).raise_for_status()

    def cpu_seconds(self) -> float:
        """CPU seconds of all its processes that live now."""
        whole = psutil.Process(self.process.pid)
        return sum(sum(each.cpu_times()[:2]) for each in [whole, *whole.children(recursive=True)])


def measure(run: Run, pods: str, steps: int) -> Phase:
    """Let `steps` steps pass, after some that are left out."""
    begin = len(run.steps()) + WARM_UP
    run.until(lambda: len(run.steps()) >= begin)
    since, cpu, machine = time.monotonic(), run.cpu_seconds(), busy_seconds()
    run.until(lambda: len(run.steps()) >= begin + steps)
    seconds, used = time.monotonic() - since, run.cpu_seconds() - cpu
    others = max(0.0, busy_seconds() - machine - used)
    return Phase(pods, run.steps()[begin : begin + steps], seconds, used / seconds, others / seconds)


def busy_seconds() -> float:
    """CPU seconds that this machine has worked."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def show(phases: list[Phase], per_step: int) -> Table:
    """The phases side by side, and the ratio of the middle one to the mean of the others."""
    cores = len(os.sched_getaffinity(0))
    table = Table("", *(phase.pods for phase in phases), "ratio", title=f"Medians of {len(phases[0].steps)} steps")

    def _row(name: str, read: Callable[[Phase], float], form: str = ",.0f") -> None:
        values = [read(phase) for phase in phases]
        table.add_row(
            name, *(format(value, form) for value in values), f"{values[1] / statistics.mean(values[::2]):.2f}"
        )

    for stage in STAGES:
        _row(f"{stage} tokens/s", lambda phase, stage=stage: phase.tokens_per_s(stage))  # type: ignore[misc]
    _row("trajectories/s", lambda phase: per_step / phase.seconds_of("total"), ".1f")
    for stage in ("rollout", "score", "learn", "total"):
        _row(f"seconds: {stage}", lambda phase, stage=stage: phase.seconds_of(stage), ".2f")  # type: ignore[misc]
    _row(f"cores used, of {cores}", lambda phase: phase.cores_used, ".2f")
    _row("cores used by others", lambda phase: phase.cores_others, ".2f")
    # What a pod more cannot change: where this stays and the rate grows, the gain is that of cores that stood idle.
    _row(
        "trajectories a core second",
        lambda phase: len(phase.steps) * per_step / phase.seconds / phase.cores_used,
        ".1f",
    )
    return table


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollout", type=int, default=3, help="rollout pods of the second phase")
    parser.add_argument("--teacher", type=int, default=2, help="teacher pods of the second phase")
    parser.add_argument("--steps", type=int, default=15, help="steps of a phase")
    parser.add_argument("--batch", type=int, default=48, help="items a step: enough groups to keep all pods at work")
    parser.add_argument("--out", type=Path, help="folder of the run; a temporary one by default")
    args = parser.parse_args()
    out = (args.out or Path(tempfile.mkdtemp(prefix="xopd-scaling-"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    # Leaving pods take some steps to drain; what remains afterwards lets the run reach its end.
    run = Run(out, 3 * (args.steps + WARM_UP) + 15, args.batch)
    more = [f"rollout-{i}" for i in range(1, args.rollout)] + [f"teacher-{i}" for i in range(1, args.teacher)]
    try:
        phases = [measure(run, "1 rollout, 1 teacher", args.steps)]
        run.tell_trainer("/pause")
        run.scale(args.rollout, args.teacher)
        run.until(lambda: run.says(*(f"{name} is ready" for name in more)))
        run.tell_trainer("/resume")
        phases.append(measure(run, f"{args.rollout} rollout, {args.teacher} teacher", args.steps))
        run.scale(1, 1)
        run.until(lambda: run.says(*(f"{name} has left, in order" for name in more)))
        phases.append(measure(run, "1 rollout, 1 teacher again", args.steps))
        run.process.wait(PATIENCE_S)
    finally:
        run.process.terminate()
        run.process.wait(120)
    console.print(show(phases, args.batch * 2 * 4))
    counts = json.loads((run.folder / "summary.json").read_text())["trajectories"]
    console.print("trajectories: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
