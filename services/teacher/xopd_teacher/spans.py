"""The teacher's spans: one a call that comes with a trace, and what its request waited and was computed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from opentelemetry.trace import Span, SpanKind

from xopd.telemetry import TRACEPARENT, Tracer, child_span, context_from, failed, finished_span


@contextlib.contextmanager
def server_span(tracer: Tracer, method: str, context: Any) -> Iterator[Span]:
    """The span of a call while the block runs; nothing where its caller traces nothing.

    Args:
        tracer: makes it.
        method: such as `score_stream`.
        context: of the gRPC call.
    """
    parent = context_from(dict(context.invocation_metadata() or ()).get(TRACEPARENT, ""))
    attributes = {"rpc.system": "grpc", "rpc.method": method.title().replace("_", "")}
    name = f"xopd.v1.LogprobService/{attributes['rpc.method']}"
    with child_span(tracer, name, attributes, parent=parent, kind=SpanKind.SERVER) as span:
        yield span


def note_status(span: Span, code: grpc.StatusCode, reason: str) -> None:
    """Tell the span how its call ended."""
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code is not grpc.StatusCode.OK:
        failed(span, reason or code.name.lower())


def record_done(tracer: Tracer, queue_s: float, compute_s: float, computed: Mapping[str, Any]) -> None:
    """What the current call's request waited in the queue and took in the engine (seconds), both just over."""
    now = time.time()
    began = now - compute_s
    finished_span(tracer, "batch queue", began - queue_s, began)
    finished_span(tracer, "compute", began, now, computed)
