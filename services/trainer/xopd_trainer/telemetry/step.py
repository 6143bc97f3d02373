"""What is measured of one step, beside the step: its spans, where its time went, its policy lag, and its record."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, use_span

from xopd.scoring import TeacherClient
from xopd.telemetry import Tracer, child_span, context_from, failed, finished_span, traceparent_of
from xopd.telemetry.clock import ActivityClock
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import MODALITY_NAMES, policy_versions
from xopd_trainer.batch import ScoredGroup
from xopd_trainer.learning.learner import StepResult
from xopd_trainer.telemetry.transport import TransportTimes


@dataclass(frozen=True)
class FinishedStep:
    """What a step came to, and what was measured of it."""

    result: StepResult
    record: dict[str, Any]
    """For metrics.jsonl, without `wall_s`."""
    lag_in_flight: int
    """Largest number of versions published between sampling and the answer's arrival."""
    lag_in_queue: int
    """Largest number of versions between the answer's arrival and the step."""


class StepTelemetry:
    """Measures one step. The step tells it when things begin and end; it never changes what the step does."""

    def __init__(
        self, tracer: Tracer, teacher: TeacherClient, newest_version: Callable[[], int], step: int, root: Span
    ) -> None:
        """Begin now. `newest_version` gives the newest policy version that was published; `root` is the step's span."""
        self.tracer = tracer
        self.newest_version = newest_version
        self.step = step
        self._root = root
        self._began = time.monotonic()
        self._last_answer = self._scored = self._learnt = self._began
        self._clock = ActivityClock("rollout", "teacher")
        self._transport = TransportTimes(teacher)
        self._spans: dict[str, Span] = {}
        self._in_flight = self._in_queue = 0

    @contextlib.contextmanager
    def dispatching(self, groups: Sequence[pb.PromptGroup]) -> Iterator[None]:
        """The groups go out inside; each carries the context of a span of its own."""
        self._spans = {group.group_id: start_group(self.tracer, group) for group in groups}
        with self._clock.counting("rollout"), child_span(self.tracer, "dispatch", {"xopd.groups": len(groups)}):
            yield

    @contextlib.contextmanager
    def group(self, group_id: str) -> Iterator[Span]:
        """One group's way from dispatch to score."""
        with use_span(self._spans[group_id], end_on_exit=True, record_exception=False) as span:
            yield span

    async def arrival(self, future: asyncio.Future[pb.TrajectoryGroup], span: Span) -> pb.TrajectoryGroup:
        """Wait for a group's answer. Raises what `future` raises."""
        try:
            with self._clock.counting("rollout"):
                answer = await future
        except Exception as error:
            failed(span, str(error))
            raise
        finally:
            self._last_answer = max(self._last_answer, time.monotonic())
        self._transport.arrived(answer)
        newest, (oldest, _) = self.newest_version(), policy_versions(answer)
        self._in_flight = max(self._in_flight, newest - oldest)
        self._in_queue = max(self._in_queue, self.step - 1 - newest)
        note_answer(self.tracer, span, answer)
        return answer

    @contextlib.contextmanager
    def scoring(self, span: Span | None = None) -> Iterator[None]:
        """The teacher reads one group inside; an error is also told to the group's `span`."""
        with self._clock.counting("teacher"):
            if span is None:
                yield
                return
            try:
                with child_span(self.tracer, "score"):
                    yield
            except Exception as error:
                failed(span, str(error))
                raise

    def all_scored(self) -> None:
        """Every group has been answered and scored, or left out."""
        self._scored = time.monotonic()

    @contextlib.contextmanager
    def learning(self, batch: Sequence[ScoredGroup]) -> Iterator[None]:
        """The optimiser step is taken, and booked, inside."""
        with child_span(self.tracer, "learn", {"xopd.groups": len(batch)}):
            yield
        self._learnt = time.monotonic()

    def finished(self, result: StepResult, policy_lag: int) -> FinishedStep:
        """The step has ended; `policy_lag` is the largest that it trained on (versions)."""
        ended = time.monotonic()
        self._root.set_attributes(
            {"xopd.loss": result.loss, "xopd.tokens": result.tokens["trainer"], "xopd.skipped": result.skipped}
        )
        seconds = {
            "rollout": self._last_answer - self._began,
            "score": self._scored - self._last_answer,
            "learn": self._learnt - self._scored,
            "sync": ended - self._learnt,
        }
        total = ended - self._began
        busy = {**{stage: self._clock.seconds(stage) for stage in ("rollout", "teacher")}, "trainer": seconds["learn"]}
        signals = {name: collected.summary() for name, collected in result.signals.items()}
        record = {
            "kind": "step",
            "step": self.step,
            "time": time.time(),
            "loss": result.loss,
            "loss_in": result.loss_in,
            "loss_cross": result.loss_cross,
            "learning_rate": result.learning_rate,
            "grad_norm": result.grad_norm,
            "skipped": result.skipped,
            "policy_version": self.step,
            "policy_lag_max": policy_lag,
            "text": signals.get("text"),
            "speech": signals.get("speech"),
            "transport": self._transport.summary(),
            "seconds": {**seconds, "wait": max(0.0, total - sum(seconds.values())), "total": total},
            "tokens_per_s": {stage: result.tokens[stage] / s if s > 0 else 0.0 for stage, s in busy.items()},
        }
        return FinishedStep(result, record, self._in_flight, self._in_queue)


@contextlib.contextmanager
def observed_step(
    tracer: Tracer, teacher: TeacherClient, newest_version: Callable[[], int], step: int, about: dict[str, Any]
) -> Iterator[StepTelemetry]:
    """The telemetry of optimiser step `step`; its span, with the attributes `about`, is the root of a trace."""
    with tracer.start_as_current_span("step", Context(), attributes=about, record_exception=False) as root:
        yield StepTelemetry(tracer, teacher, newest_version, step, root)


def start_group(tracer: Tracer, group: pb.PromptGroup) -> Span:
    """The span of a group's way from dispatch to score, below the current one; the group carries it along."""
    span = tracer.start_span(
        "group",
        kind=SpanKind.PRODUCER,
        attributes={
            "xopd.group_id": group.group_id,
            "xopd.item_id": group.item_id,
            "xopd.modality": MODALITY_NAMES[group.modality],
            "xopd.policy_version": group.min_policy_version,
            "xopd.responses": len(group.seeds),
        },
    )
    group.traceparent = traceparent_of(span)
    return span


def note_answer(tracer: Tracer, span: Span, answer: pb.TrajectoryGroup) -> None:
    """Tell the group's span of its answer, which has just come, and show the answer's way through Redis."""
    if not span.is_recording():
        return
    span.set_attributes(
        {
            "xopd.pod_id": answer.pod_id,
            "xopd.attempt": answer.attempt,
            "xopd.tokens": sum(len(t.token_ids) for t in answer.trajectories),
            "xopd.truncated": sum(t.finish_reason == pb.FINISH_REASON_LENGTH for t in answer.trajectories),
        }
    )
    pod = context_from(answer.traceparent)
    # A pod that traces nothing echoes the group's own context: the way back is the group's child then.
    finished_span(tracer, "return", answer.finished_at, time.time(), parent=pod or None, kind=SpanKind.CONSUMER)
