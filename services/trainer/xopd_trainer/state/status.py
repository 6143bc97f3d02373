"""What the trainer is doing now: the answer of /status, kept by the loop and read by the live view."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

STAGES = ("rollout", "score", "learn", "sync", "wait")
HISTORY = 60


@dataclass
class Status:
    """The run at a glance."""

    run: str
    steps: int
    step: int = 0
    phase: str = "starting"
    detail: str = ""
    progress: dict[str, int] | None = None
    latest: dict[str, Any] | None = None
    evals: list[dict[str, Any]] = field(default_factory=list)
    teacher_text: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    """Sentences for whoever watches, such as what a test of the teachers found."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    started_at: float = field(default_factory=time.time)
    _recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def enter(self, phase: str, detail: str = "", total: int | None = None) -> None:
        """Begin a phase; with `total` it has progress."""
        self.phase, self.detail = phase, detail
        self.progress = None if total is None else {"done": 0, "total": total}

    def advance(self, done: int, total: int) -> None:
        """Report progress within the phase."""
        self.progress = {"done": done, "total": total}

    def record_step(self, record: dict[str, Any]) -> None:
        """Take in a finished step's record."""
        self.step = int(record["step"])
        self.latest = record
        self._recent.append(record)
        for stage in STAGES:
            self.seconds[stage] += record["seconds"][stage]

    def eta_s(self) -> float | None:
        """Seconds of training left at the pace of the recent steps; None before the first."""
        if not self._recent:
            return None
        pace = sum(float(record["seconds"]["total"]) for record in self._recent) / len(self._recent)
        return pace * (self.steps - self.step)

    def as_json(self) -> dict[str, Any]:
        """The loop's part of the answer of /status."""
        return {
            "phase": self.phase,
            "detail": self.detail,
            "run": self.run,
            "step": self.step,
            "steps": self.steps,
            "eta_s": self.eta_s(),
            "progress": self.progress,
            "latest": self.latest,
            "history": {
                "step": [r["step"] for r in self._recent],
                "kl_text": [_kl(r, "text") for r in self._recent],
                "kl_speech": [_kl(r, "speech") for r in self._recent],
            },
            "evals": self.evals,
            "teacher_text": self.teacher_text,
            "notes": self.notes,
            "seconds": self.seconds,
        }


def _kl(record: dict[str, Any], modality: str) -> float | None:
    return record[modality]["kl"] if record.get(modality) else None
