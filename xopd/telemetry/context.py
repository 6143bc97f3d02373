"""Spans and how they are carried: W3C trace context as the string `traceparent` of messages and of gRPC metadata.

Only roots are started with the tracer's own methods. Everything else is a child of something, or nothing: work that
nobody traces, and work whose traceparent is absent or malformed, makes no span.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"
"""gRPC metadata key of the trace context."""
LONGEST_TRACEPARENT = 512
"""Longer ones are ignored (characters); version 00 has 55."""
LONGEST_PAST_S = 86_400.0
"""A start further back than this is taken for a wrong clock (seconds)."""
LONGEST_REASON = 500
"""Of a failure (characters)."""
LOGIN = re.compile(r"://[^\s/@]*@")
QUERY = re.compile(r"(://[^\s?]*)\?[^\s'\")]*")
"""Signatures and tokens of object stores stand there."""
NO_TRACER: Tracer = NoOpTracer()
"""Makes no spans, and passes on what context it is given."""


def traceparent_of(span: Span) -> str:
    """The span's context for a message; empty where there is none."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get(TRACEPARENT, "")


def context_from(traceparent: str) -> Context:
    """The context that a message carried; an empty one where it is absent or malformed. Never raises."""
    if not traceparent or len(traceparent) > LONGEST_TRACEPARENT:
        return Context()
    return TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent}, Context())


@contextlib.contextmanager
def child_span(
    tracer: Tracer,
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    parent: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[Link] = (),
) -> Iterator[Span]:
    """The current span while the block runs: a child of `parent`, or of the current span; nothing where that is none.

    An exception ends it with an error status that says which.
    """
    if not trace.get_current_span(parent).get_span_context().is_valid:
        yield trace.INVALID_SPAN
        return
    with tracer.start_as_current_span(
        name, parent, kind, attributes, links, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except Exception as error:
            failed(span, f"{type(error).__name__}: {error}")
            raise


def failed(span: Span, reason: str) -> None:
    """End up as failed, for this reason."""
    span.set_status(Status(StatusCode.ERROR, shown(reason)))


def shown(reason: str) -> str:
    """A reason as it may leave the cluster: not long, and without what URLs carry beside their place."""
    return QUERY.sub(r"\1?…", LOGIN.sub("://", reason))[:LONGEST_REASON]


def finished_span(
    tracer: Tracer,
    name: str,
    start_s: float,
    end_s: float,
    attributes: Mapping[str, Any] | None = None,
    *,
    parent: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
) -> None:
    """A child span of what is over already; times in seconds since the epoch.

    A start that another machine's clock gave may be anything: one that cannot be is moved to the end.
    """
    if not trace.get_current_span(parent).get_span_context().is_valid:
        return
    if not (math.isfinite(start_s) and end_s - LONGEST_PAST_S <= start_s <= end_s):
        start_s = end_s
    span = tracer.start_span(name, parent, kind, attributes, start_time=int(start_s * 1e9))
    span.end(int(end_s * 1e9))
