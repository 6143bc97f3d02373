"""The client's span of one call to a teacher pod, and the metadata that takes its context there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from opentelemetry.trace import SpanKind

from xopd.scoring.pool import describe_status
from xopd.telemetry import TRACEPARENT, Tracer, child_span, failed, traceparent_of

Metadata = tuple[tuple[str, str], ...]
"""Metadata of a gRPC call."""


@contextlib.contextmanager
def call_span(tracer: Tracer, method: str, address: str, about: Mapping[str, Any]) -> Iterator[Metadata]:
    """The span of calling `method` of the pod at `address` while the block runs; gives the metadata to send along."""
    attributes = {**about, "rpc.system": "grpc", "rpc.method": method, "server.address": address}
    refusal: grpc.aio.AioRpcError | None = None
    with child_span(tracer, f"xopd.v1.LogprobService/{method}", attributes, kind=SpanKind.CLIENT) as span:
        traceparent = traceparent_of(span)
        try:
            yield ((TRACEPARENT, traceparent),) if traceparent else ()
        except grpc.aio.AioRpcError as error:
            # Its own text has several lines, and the peer's address.
            failed(span, describe_status(error))
            refusal = error
    if refusal is not None:
        raise refusal
