"""The way out: spans are queued, sent in batches by a thread of their own, and dropped rather than waited for.

Invariants:
- Making a span never waits. Where the receiver is slow or gone, the queue fills and its oldest spans are dropped.
- A receiver that cannot be reached is one warning, and one line more when it can be reached again.
- The end of the process waits for the receiver at most two timeouts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import structlog
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

import xopd
from xopd.config.schema import TracingSettings

log = structlog.get_logger(__name__)
QUEUE = 16_384
"""Most spans that wait to be sent: several steps of 512 groups, some tens of MB at worst."""
DELAY_MS = 1_000
"""How long a span waits for others (milliseconds)."""
BATCH = 512
"""Spans sent together."""
EXPORT_LOG, QUEUE_LOG = "opentelemetry.exporter", "opentelemetry.sdk._shared_internal"
"""Loggers of the SDK whose lines, one a failure, become ours."""


class Exporting:
    """A tracer and the thread that sends its spans."""

    def __init__(self, settings: TracingSettings, service: str, instance: str, run: str) -> None:
        """Start the thread; nothing is connected yet."""
        resource = Resource.create(
            {
                "service.name": service,
                "service.version": xopd.__version__,
                "service.instance.id": instance,
                "xopd.run": run,
            }
        )
        inner = _open_exporter(settings)
        self._said = _SdkLines()
        self._exporter = _QuietExporter(inner, settings, self._said)
        # The trainer starts the traces; pods follow what their messages carry.
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(settings.sample_share), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, QUEUE, DELAY_MS, BATCH, meter_provider=None)
        )
        self.tracer = self._provider.get_tracer("xopd", xopd.__version__)

    def close(self) -> None:
        """Send what waits, within two timeouts, and end the thread."""
        self._exporter.hurry()
        self._provider.shutdown()
        self._said.close()


def _open_exporter(settings: TracingSettings) -> SpanExporter:
    if settings.protocol == "http":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter(f"{settings.endpoint.rstrip('/')}/v1/traces", timeout=settings.timeout_s)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    return GrpcExporter(settings.endpoint, timeout=settings.timeout_s)


class _SdkLines(logging.Handler):
    """Keeps the SDK's first line about an export for our own, and says once that spans are dropped."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.about_export = ""
        self._loggers = [logging.getLogger(name) for name in (EXPORT_LOG, QUEUE_LOG)]
        self._dropping = False
        for logger in self._loggers:
            logger.addHandler(self)
            logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line."""
        if record.name == QUEUE_LOG:
            if not self._dropping:
                self._dropping = True
                log.warning("spans are dropped: more are made than sent; lower tracing.sample_share")
        elif not self.about_export:
            self.about_export = record.getMessage()

    def close(self) -> None:
        """Let the SDK speak for itself again."""
        for logger in self._loggers:
            logger.removeHandler(self)
            logger.propagate = True
        super().close()


class _QuietExporter(SpanExporter):
    """Sends through another exporter, and says when that begins to fail, or works again."""

    def __init__(self, inner: SpanExporter, settings: TracingSettings, said: _SdkLines) -> None:
        self._inner = inner
        self._settings = settings
        self._said = said
        self._failing = False
        self._until: float | None = None  # by time.monotonic, once the process ends
        self._ended = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; called by the processor's thread alone."""
        if self._until is not None and (self._failing or time.monotonic() > self._until):
            return SpanExportResult.FAILURE
        self._said.about_export = ""
        try:
            result = self._inner.export(spans)
            reason = self._said.about_export
        except Exception as error:
            result, reason = SpanExportResult.FAILURE, f"{type(error).__name__}: {error}"
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            log.warning("traces cannot be sent; the run goes on", endpoint=self._settings.endpoint, reason=reason)
        elif self._failing and not failing:
            log.info("traces are sent again", endpoint=self._settings.endpoint)
        self._failing = failing
        return result

    def hurry(self) -> None:
        """The process ends: what the receiver does not take in time is dropped."""
        self._until = time.monotonic() + self._settings.timeout_s
        if self._failing:
            self.shutdown()  # ends the pause before the next try, too

    def shutdown(self) -> None:
        """Close the connection."""
        if not self._ended:
            self._ended = True
            self._inner.shutdown()
