"""The files of one run, `runs/NAME/`: metrics.jsonl, graded answers, and where the rest lies."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from xopd.config import Config
from xopd.evals.verdicts import Evaluation, Verdict
from xopd.files import write_whole
from xopd.jsonl import read_json_lines

log = structlog.get_logger(__name__)


class RunFiles:
    """Paths and small writers of one run."""

    def __init__(self, config: Config) -> None:
        """Make the run's folder where it is missing."""
        self.folder = Path(config.run.directory) / config.run.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints = self.folder / "checkpoints"
        self.weights = self.folder / "weights"
        self.export = self.folder / "export"
        self.summary = self.folder / "summary.json"
        self.teacher_responses = self.folder / "teacher_responses.jsonl"
        self._metrics = self.folder / "metrics.jsonl"
        self._unwritten = ""
        self._evals = self.folder / "evals"

    def append(self, record: dict[str, Any]) -> None:
        """Add one record to metrics.jsonl; on a full disk it is kept until a later one can be written."""
        self._unwritten += json.dumps(record) + "\n"
        whole = self._metrics.stat().st_size if self._metrics.exists() else 0
        try:
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(self._unwritten)
        except OSError as error:
            log.warning("metrics.jsonl cannot be written to", error=str(error))
            with contextlib.suppress(OSError):
                os.truncate(self._metrics, whole)
        else:
            self._unwritten = ""

    def event(self, step: int, event: str, detail: str) -> None:
        """Add an event to metrics.jsonl."""
        self.append({"kind": "event", "step": step, "time": time.time(), "event": event, "detail": detail})

    def records(self) -> list[dict[str, Any]]:
        """All records of metrics.jsonl; what is none, such as a torn last line, is left out."""
        records = read_json_lines(self._metrics)
        return [r for r in records if isinstance(r.get("kind"), str) and isinstance(r.get("step"), int)]

    def forget_after(self, step: int) -> None:
        """Drop step and dev records later than the checkpoint that the run resumes from."""
        kept = [r for r in self.records() if r["kind"] == "event" or r["step"] <= step]
        write_whole(self._metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, whole or not at all."""
        write_whole(self.summary, json.dumps(summary, indent=2) + "\n")

    def write_evaluation(self, label: str, evaluation: Evaluation) -> None:
        """Keep every graded answer of `evaluation` in evals/LABEL.json, to read and to resume from."""
        parts = {part: [asdict(v) for v in verdicts] for part, verdicts in evaluation.verdicts.items()}
        self._evals.mkdir(exist_ok=True)
        write_whole(self._evals / f"{label}.json", json.dumps(parts, indent=1) + "\n")

    def read_evaluation(self, label: str, expected: Mapping[str, str]) -> Evaluation | None:
        """An earlier evaluation, if it asked exactly what is `expected` (digest by item id); else None."""
        try:
            parts = json.loads((self._evals / f"{label}.json").read_text(encoding="utf-8"))
            evaluation = Evaluation({part: [Verdict(**v) for v in verdicts] for part, verdicts in parts.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        covered = {v.item_id: v.asked for verdicts in evaluation.verdicts.values() for v in verdicts}
        return evaluation if covered == dict(expected) else None
