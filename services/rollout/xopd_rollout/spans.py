"""The pod's spans of a claimed group: how long it lay in the stream, and what became of it here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind

from xopd.telemetry import Tracer, child_span, context_from, failed, finished_span, traceparent_of
from xopd.v1 import trajectory_pb2 as pb
from xopd.v1 import weights_pb2
from xopd.wire import MODALITY_NAMES


@contextlib.contextmanager
def claim_span(tracer: Tracer, group: pb.PromptGroup, redelivered: bool) -> Iterator[Span]:
    """The span of this pod's work on a group that it has just claimed, while the block runs."""
    parent = context_from(group.traceparent)
    about = {
        "xopd.group_id": group.group_id,
        "xopd.item_id": group.item_id,
        "xopd.modality": MODALITY_NAMES[group.modality],
        "xopd.step": group.step,
        "xopd.attempt": group.attempt,
        "xopd.redelivered": redelivered,
    }
    finished_span(tracer, "queue", group.dispatched_at, time.time(), about, parent=parent)
    with child_span(tracer, "rollout", about, parent=parent, kind=SpanKind.CONSUMER) as span:
        yield span


def note_answer(span: Span, answer: pb.TrajectoryGroup) -> None:
    """Tell the span how the group went; the answer carries it along, or the prompt's own where nothing traces here."""
    answer.traceparent = traceparent_of(span)
    if answer.HasField("failure"):
        failed(span, f"{pb.FailureCode.Name(answer.failure.code)}: {answer.failure.reason}")
        return
    span.set_attribute("xopd.tokens", sum(len(t.token_ids) for t in answer.trajectories))
    truncated = sum(t.finish_reason == pb.FINISH_REASON_LENGTH for t in answer.trajectories)
    span.set_attribute("xopd.truncated", truncated)


@contextlib.contextmanager
def update_span(tracer: Tracer, manifest: weights_pb2.WeightManifest) -> Iterator[None]:
    """The span of loading a version: below its publication where that is traced, else below the group that waits."""
    about = {"xopd.policy_version": manifest.version, "xopd.bytes": manifest.size_bytes}
    waiting = trace.get_current_span()
    published: Context | None = context_from(manifest.traceparent)
    if not trace.get_current_span(published).get_span_context().trace_flags.sampled:
        published = None
    links = [Link(waiting.get_span_context())] if published and waiting.get_span_context().is_valid else []
    with child_span(tracer, "load weights", about, parent=published, kind=SpanKind.CONSUMER, links=links) as span:
        if links:
            waiting.add_link(span.get_span_context())
        yield
