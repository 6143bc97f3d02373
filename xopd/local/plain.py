"""Plain lines for logs and CI: one for each event and evaluation, and one every few seconds while training."""

from __future__ import annotations

import time

from rich.console import Console

from xopd.local.view import Scene, View
from xopd.report.records import EvalRecord, Score, StepRecord
from xopd.report.style import count, duration, percent
from xopd.status.model import RunStatus

EVERY_S = 5.0
PARTS = ("speech", "text", "retention")


class PlainView(View):
    """Prints lines as things change."""

    def __init__(self, console: Console, scene: Scene) -> None:
        """Print to `console`."""
        super().__init__(console, scene)
        self._phase = ""
        self._evals_shown = 0
        self._teacher_shown = False
        self._step_shown = 0
        self._shown_at = 0.0

    def event(self, sentence: str) -> None:
        """One line."""
        self._line(sentence)

    def refresh(self) -> None:
        """Print what is new in the status."""
        status = self.scene.status
        if status is None:
            return
        if status.teacher_text is not None and not self._teacher_shown:
            self._teacher_shown = True
            self._line(f"text-only teacher: text {_score(status.teacher_text)}")
        for record in status.evals[self._evals_shown :]:
            self._line(eval_line(record))
        self._evals_shown = len(status.evals)
        if self.scene.phase != self._phase:
            self._phase = self.scene.phase
            self._line(self._phase + (f": {status.detail}" if status.detail else ""))
            self._shown_at = time.monotonic()
        due = time.monotonic() - self._shown_at >= EVERY_S
        if status.phase == "training" and status.latest is not None and due and status.step != self._step_shown:
            self._step_shown, self._shown_at = status.step, time.monotonic()
            self._line(step_line(status, status.latest))
        elif status.phase != "training" and status.progress is not None and due:
            self._shown_at = time.monotonic()
            self._line(f"{self._phase} {status.progress.done}/{status.progress.total}")

    def _line(self, text: str) -> None:
        stamp = f"{self.scene.elapsed_s:6.0f} s"
        self.console.print(f"{stamp}  {text}", markup=False, highlight=False, soft_wrap=True)


def step_line(status: RunStatus, latest: StepRecord) -> str:
    """One step: `step 120/300  loss 0.312  KL speech 0.71 text 0.12  4,700 tok/s  3 min left`."""
    parts = [f"step {status.step}/{status.steps}"]
    if latest.loss is not None:
        parts.append(f"loss {latest.loss:.3f}")
    modalities = [(name, step) for name, step in (("speech", latest.speech), ("text", latest.text)) if step is not None]
    kls = [f"{name} {step.kl:.3f}" for name, step in modalities if step.kl is not None]
    if kls:
        parts.append("KL " + " ".join(kls))
    total = latest.seconds.get("total")
    if total is not None:
        parts.append(f"{total:.2f} s/step")
    rollout = latest.tokens_per_s.get("rollout")
    if rollout is not None:
        parts.append(f"rollout {count(rollout)} tokens/s")
    if status.eta_s is not None and status.step < status.steps:
        parts.append(f"{duration(status.eta_s)} left")
    return "  ".join(parts)


def eval_line(record: EvalRecord) -> str:
    """One evaluation: `dev at step 50: speech 52.1 %  text 93.0 %  retention 95.0 %`."""
    scores = "  ".join(f"{part} {_score(score)}" for part in PARTS if (score := record.scores.get(part)) is not None)
    return f"{record.split} at step {record.step}: {scores}"


def _score(score: Score) -> str:
    counted = [f"{number} {name}" for name, number in (("cut off", score.cut), ("missing", score.unanswered)) if number]
    return f"{percent(score.accuracy)} (n = {', '.join([str(score.n), *counted])})"
