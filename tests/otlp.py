"""A real OTLP receiver over gRPC, or over HTTP, within the test's own process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class Seen:
    """A span as the receiver was sent it; ids in hex, `parent` empty for a root, times in nanoseconds."""

    service: str
    instance: str
    run: str
    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    failure: str | None
    start: int
    end: int


class Receiver:
    """Keeps what it is sent. `headers` are those of the newest export."""

    def __init__(self) -> None:
        """Nothing has come."""
        self.spans: list[Seen] = []
        self.exports = 0
        self.headers: dict[str, str] = {}

    def take(self, request: pb.ExportTraceServiceRequest, headers: dict[str, str]) -> None:
        """One export."""
        self.headers = headers
        self.exports += 1
        for resource in request.resource_spans:
            about = _plain(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans.extend(_seen(about, span) for span in scope.spans)

    def named(self, name: str, service: str = "") -> list[Seen]:
        """Spans by name, of one service where one is given."""
        return [span for span in list(self.spans) if span.name == name and span.service.endswith(service)]

    def wait_for(self, found: Callable[[], bool], retry_limit_s: float = 30.0) -> None:
        """Wait until `found`; spans come a moment after their work."""
        deadline = time.monotonic() + retry_limit_s
        while not found():
            assert time.monotonic() < deadline, f"spans missing among {sorted({s.name for s in self.spans})}"
            time.sleep(0.05)


class GrpcReceiver(Receiver, trace_service_pb2_grpc.TraceServiceServicer):
    """OTLP over gRPC, as a context manager."""

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:  # noqa: N802
        """The service's one method."""
        self.take(request, {str(key): str(value) for key, value in context.invocation_metadata()})
        return pb.ExportTraceServiceResponse()

    def __enter__(self) -> GrpcReceiver:
        """Listen on a free port."""
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._server.stop(1).wait(5)


class HttpReceiver(Receiver):
    """OTLP as protobuf over HTTP, as a context manager."""

    def __enter__(self) -> HttpReceiver:
        """Listen on a free port."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.path = self.path
                request = pb.ExportTraceServiceRequest.FromString(body)
                receiver.take(request, {key.lower(): value for key, value in self.headers.items()})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.path = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


def _seen(resource: dict[str, Any], span: trace_pb2.Span) -> Seen:
    return Seen(
        service=resource["service.name"],
        instance=resource["service.instance.id"],
        run=resource["xopd.run"],
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=tuple(link.span_id.hex() for link in span.links),
        attributes=_plain(span.attributes),
        failure=span.status.message if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR else None,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
