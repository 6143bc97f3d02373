"""What a run writes down of its steps and evaluations: metrics.jsonl, /status and Prometheus are told the same."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from xopd.evals.verdicts import Evaluation
from xopd.ledger import Ledger
from xopd.scoring.self_test import SelfTest
from xopd_trainer.state.run_files import RunFiles
from xopd_trainer.state.status import Status
from xopd_trainer.telemetry.metrics import TrainerMetrics
from xopd_trainer.telemetry.step import FinishedStep

STAGES = ("rollout", "teacher", "trainer")


class Records:
    """Takes down what happens in one life of a run."""

    def __init__(self, files: RunFiles, status: Status, metrics: TrainerMetrics, ledger: Ledger) -> None:
        """Write to `files`; `ledger` has the accounts."""
        self.files = files
        self.status = status
        self.metrics = metrics
        self.ledger = ledger

    def step(self, finished: FinishedStep, wall_s: float, published_bytes: int) -> None:
        """A finished step; `wall_s` is what the run has taken so far (seconds), earlier lives included."""
        record = {**finished.record, "wall_s": wall_s}
        self.files.append(record)
        self.status.record_step(record)
        self.metrics.record_step(record, finished.result, self.ledger.accounts)
        self.metrics.record_lag(finished.lag_in_flight, finished.lag_in_queue)
        self.metrics.record_published(published_bytes)
        if finished.result.skipped:
            step = int(record["step"])
            self.files.event(step, "skipped", "the loss or the gradient was not finite: the weights are as before")

    def evaluation(self, step: int, split: str, evaluation: Evaluation, known: bool = False) -> None:
        """An evaluation of policy version `step`; one that is `known` from an earlier life is shown, not written."""
        scores = evaluation.as_json()
        record = {"kind": "eval", "step": step, "time": time.time(), "split": split, "scores": scores}
        self.status.record_evaluation(record)
        if not known:
            self.files.append(record)
            self.metrics.record_evaluation(record)

    def probe(self, step: int, signals: dict[str, dict[str, Any]]) -> None:
        """The signals of dev items under policy version `step`."""
        self.files.append({"kind": "probe", "step": step, "time": time.time(), **signals})

    def teacher_test(self, step: int, found: SelfTest) -> None:
        """What the self-test of the teachers found, before step `step + 1`."""
        self.files.append(found.record(step, time.time()))
        self.status.notes += [found.summary(), *(f"teacher {each.pod}: {each.sentence}" for each in found.warnings)]

    def mended(self, version: int) -> None:
        """A weight version was written again."""
        self.metrics.mended.inc()
        detail = f"weight version {version} was damaged or missing: written again"
        self.files.event(self.status.step, "mended", detail)

    def tokens_per_s(self) -> dict[str, float]:
        """Mean over the run's steps, by stage."""
        steps: Sequence[dict[str, Any]] = [r for r in self.files.records() if r["kind"] == "step"]
        return {stage: sum(r["tokens_per_s"][stage] for r in steps) / max(1, len(steps)) for stage in STAGES}
