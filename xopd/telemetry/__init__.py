"""Distributed traces: one a training step, through all services. Off by default; imports no SDK until it is on."""

from opentelemetry.trace import Tracer

from xopd.telemetry.context import (
    NO_TRACER,
    TRACEPARENT,
    child_span,
    context_from,
    failed,
    finished_span,
    shown,
    traceparent_of,
)
from xopd.telemetry.opening import tracing

__all__ = [
    "NO_TRACER",
    "TRACEPARENT",
    "Tracer",
    "child_span",
    "context_from",
    "failed",
    "finished_span",
    "shown",
    "traceparent_of",
    "tracing",
]
