"""The trainer's spans of a step and of its groups, with what a reader of a trace wants to know of them."""

from __future__ import annotations

import time

from opentelemetry.trace import Span, SpanKind

from xopd.telemetry import Tracer, context_from, finished_span, traceparent_of
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import MODALITY_NAMES
from xopd_trainer.learning.learner import StepResult


def note_step(span: Span, result: StepResult) -> None:
    """Tell the step's span how it ended."""
    span.set_attributes(
        {"xopd.loss": result.loss, "xopd.tokens": result.tokens["trainer"], "xopd.skipped": result.skipped},
    )


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
