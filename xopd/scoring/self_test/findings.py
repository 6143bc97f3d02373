"""What a self-test of teachers found: one finding for each pod and check, and all of them in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Check = Literal["tested", "top_k", "repeated", "order", "end_of_turn", "thinking", "replicas"]
Outcome = Literal["ok", "warning"]


@dataclass(frozen=True)
class Finding:
    """What one check found of one pod."""

    pod: str
    """Its address."""
    check: Check
    outcome: Outcome
    figure: float | None
    """Nats for `repeated`, `order` and `replicas`; the share of answers for `end_of_turn` (that ended) and `thinking`
    (that began so); tokens for `top_k`; None where nothing was measured."""
    sentence: str


@dataclass(frozen=True)
class SelfTest:
    """All findings, by pod. What must not start has been raised, and is not among them."""

    findings: tuple[Finding, ...]

    @property
    def warnings(self) -> list[Finding]:
        """What a user should look at."""
        return [finding for finding in self.findings if finding.outcome == "warning"]

    def summary(self) -> str:
        """One short sentence for a log."""
        pods = {finding.pod for finding in self.findings}
        parts = [f"{len(pods)} {'teacher' if len(pods) == 1 else 'teachers'} tested"]
        for check, what in (("repeated", "asked twice"), ("order", "in another order"), ("replicas", "replicas")):
            figures = self._figures(check)
            if figures:
                parts.append(f"{what} {max(figures):.2g} nats apart")
        ended = self._figures("end_of_turn")
        if ended:
            parts.append(f"{sum(ended) / len(ended):.0%} of the answers ended")
        thinking = self._figures("thinking")
        if any(thinking):
            parts.append(f"{sum(thinking) / len(thinking):.0%} began by thinking")
        parts.append(_warnings(self.warnings))
        return ", ".join(parts)

    def record(self, step: int, time: float) -> dict[str, Any]:
        """The event of metrics.jsonl; `time` in seconds since 1970."""
        return {
            "kind": "event",
            "step": step,
            "time": time,
            "event": "teacher_self_test",
            "detail": self.summary(),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def _figures(self, check: str) -> list[float]:
        return [f.figure for f in self.findings if f.check == check and f.figure is not None]


def _warnings(warnings: Sequence[Finding]) -> str:
    if not warnings:
        return "no warning"
    return "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
