"""A whole small world with random weights: checkpoints, clips of noise, a manifest, and a configuration."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from tests.random_models import make_student, make_teacher

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def make_world(folder: Path, padded_rows: int = 0, **settings: dict[str, Any]) -> Path:
    """Write everything under `folder` and return the configuration's path.

    The student's language model is the teacher's, bit for bit: on text their log-probabilities are equal. The teacher's
    output head has `padded_rows` more rows.
    """
    teacher = make_teacher(folder / "teacher", padded_rows=padded_rows)
    student = make_student(folder / "student", language_model_of=teacher)
    rng, items = np.random.default_rng(0), []
    (folder / "audio").mkdir(parents=True)
    for i in range(24):
        path = folder / "audio" / f"{i}.flac"
        soundfile.write(path, rng.normal(0, 0.1, 8000 + 400 * i).astype(np.float32), 16000)
        kind = "retention" if i >= 20 else "task"
        items.append(
            {
                "id": f"item-{i:02d}",
                "kind": kind,
                "family": "noise",
                "split": "train" if i < 12 else "dev" if i < 16 else "test",
                "text": None if kind == "retention" else f"say {WORDS[i % 10]} and {WORDS[i // 3]}",
                "audio": {
                    "uri": f"audio/{i}.flac",
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "seconds": (8000 + 400 * i) / 16000,
                    "sample_rate": 16000,
                },
                "question": "how loud" if kind == "retention" else "",
                "answer": WORDS[i % 10],
                "response": f"{WORDS[i // 3]} {WORDS[i % 10]} . answer {WORDS[i % 10]}",
                "targets": {"foreign": f"answer {WORDS[i % 10]}"},
            }
        )
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    tree: dict[str, dict[str, Any]] = {
        "run": {"name": "small", "directory": str(folder / "runs"), "steps": 4, "checkpoint_every": 2},
        "redis": {"lease_s": 3.0},
        "data": {"manifest": "items.jsonl"},
        "student": {"path": str(student), "feature_cache": str(folder / "features")},
        "teacher": {"path": str(teacher)},
        "sampling": {"max_new_tokens": 12},
        "evals": {"every": 2, "max_new_tokens": 8},
        "trainer": {"batch_prompts": 4, "redispatch_after_s": 20.0},
        "rollout": {"max_model_len": 256, "pods": 1},
    }
    for section, values in settings.items():
        tree.setdefault(section, {}).update(values)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


class Run:
    """`xopd up --plain` as a user starts it."""

    def __init__(self, config: Path, *options: str) -> None:
        """Start it; its output goes to a file beside the configuration."""
        self.folder = config.parent / "runs" / "small"
        self.output = config.parent / f"up-{time.monotonic_ns()}.txt"
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "xopd", "up", str(config), "--plain", *options],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def wait(self, timeout_s: float) -> int:
        """Wait for its end; a hang is a failure."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.stop()
            raise AssertionError(f"the run hangs:\n{self.text()[-4000:]}") from None

    def text(self) -> str:
        """What it printed so far."""
        return self.output.read_text(errors="replace")

    def records(self) -> list[dict[str, Any]]:
        """Records of metrics.jsonl so far."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]

    def steps(self) -> list[dict[str, Any]]:
        """Step records so far."""
        return [record for record in self.records() if record["kind"] == "step"]

    def wait_for_step(self, step: int, timeout_s: float = 240.0) -> None:
        """Wait until a step is recorded."""
        deadline = time.monotonic() + timeout_s
        while not any(record["step"] >= step for record in self.steps()):
            assert self.process.poll() is None, f"the run ended early:\n{self.text()[-4000:]}"
            assert time.monotonic() < deadline, f"step {step} did not come:\n{self.text()[-4000:]}"
            time.sleep(0.1)

    def pid_of(self, name: str) -> int:
        """Process id of a service by the supervisor's name for it."""
        pids = json.loads((self.folder / "processes" / "pids.json").read_text())
        return int(pids[name])

    def summary(self) -> dict[str, Any]:
        """summary.json of the finished run."""
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found

    def stop(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
