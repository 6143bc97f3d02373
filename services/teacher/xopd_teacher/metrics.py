"""The teacher's Prometheus metrics. Labels are bounded: method, outcome, kind, reason.

Every series is explained in docs/METRICS.md, which is generated from the texts here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from xopd_teacher.engines import Batch

REQUEST_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKEN_BUCKETS = (64, 256, 1024, 4096, 16384, 65536, 262144)
SHARE_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
SECONDS_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
METHODS = ("score", "score_stream", "generate", "info")
DROP_REASONS = ("caller_gone", "deadline")
KINDS = ("score", "generate")


class TeacherMetrics:
    """All series of one teacher pod, in a registry of its own."""

    def __init__(self) -> None:
        """Create the series."""
        self.registry = r = CollectorRegistry()
        kind = ["kind"]
        self.scored_tokens = Counter("xopd_teacher_scored_tokens", "Response tokens scored", registry=r)
        self.generated_tokens = Counter("xopd_teacher_generated_tokens", "Tokens generated", registry=r)
        self.requests = Counter("xopd_teacher_requests", "Calls by outcome", ["method", "outcome"], registry=r)
        self.in_flight = Gauge("xopd_teacher_in_flight_requests", "Calls under way", ["method"], registry=r)
        self.top_k_requests = Counter("xopd_teacher_top_k_requests", "Score requests with top_k > 0", registry=r)
        self.dropped = Counter(
            "xopd_teacher_dropped_requests", "Requests dropped before they cost compute", ["reason"], registry=r
        )
        self.non_finite = Counter("xopd_teacher_non_finite", "Answers refused for NaN or infinity", registry=r)
        self.engine_failures = Counter("xopd_teacher_engine_failures", "Batches that broke the engine", registry=r)
        self.queue_depth = Gauge("xopd_teacher_queue_depth", "Requests waiting", registry=r)
        self.queue_limit = Gauge("xopd_teacher_queue_limit_requests", "Most requests that may wait", registry=r)
        self.shed = Counter("xopd_teacher_shed_requests", "Requests refused because the queue was full", registry=r)
        self.token_budget = Gauge("xopd_teacher_token_budget_tokens", "Most tokens put in a batch", registry=r)
        self.queue_age = Gauge("xopd_teacher_queue_age_seconds", "Age of the oldest waiting request", registry=r)
        self.queue_seconds = Histogram(
            "xopd_teacher_queue_seconds", "Wait before the engine", registry=r, buckets=SECONDS_BUCKETS
        )
        self.batch_requests = Histogram(
            "xopd_teacher_batch_requests", "Requests in a batch", kind, registry=r, buckets=REQUEST_BUCKETS
        )
        self.batch_tokens = Histogram(
            "xopd_teacher_batch_tokens", "Tokens in a batch, as counted by the budget", kind, registry=r,
            buckets=TOKEN_BUCKETS,
        )  # fmt: skip
        self.padding_share = Histogram(
            "xopd_teacher_padding_share", "Share of padding in a batch", kind, registry=r, buckets=SHARE_BUCKETS
        )
        self.forward_tokens = Counter("xopd_teacher_forward_tokens", "Positions put through the model", registry=r)
        self.padding_tokens = Counter("xopd_teacher_padding_tokens", "Padding among them", registry=r)
        self.compute_seconds = Counter("xopd_teacher_compute_seconds", "Seconds the engine worked", kind, registry=r)
        self.ready = Gauge("xopd_teacher_ready", "1 while it takes requests", registry=r)

        ProcessCollector(registry=r)
        # Counters that are there from the start: the first refusal is an increase, not a new series.
        for method in METHODS:
            self.in_flight.labels(method)
            for outcome in ("ok", "resource_exhausted"):
                self.requests.labels(method, outcome)
        for reason in DROP_REASONS:
            self.dropped.labels(reason)
        for each in KINDS:
            self.compute_seconds.labels(each)

    def watch_queue(self, depth: Callable[[], int], age_s: Callable[[], float]) -> None:
        """Read depth and age of the queue from these functions at each scrape."""
        self.queue_depth.set_function(lambda: float(depth()))
        self.queue_age.set_function(age_s)

    def record_batch(self, kind: str, requests: int, tokens: int, batch: Batch[Any], seconds: float) -> None:
        """Take in a computed batch."""
        self.batch_requests.labels(kind).observe(requests)
        self.batch_tokens.labels(kind).observe(tokens)
        self.padding_share.labels(kind).observe(batch.padding_tokens / max(1, batch.forward_tokens))
        self.forward_tokens.inc(batch.forward_tokens)
        self.padding_tokens.inc(batch.padding_tokens)
        self.compute_seconds.labels(kind).inc(seconds)
