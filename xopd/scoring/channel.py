"""gRPC settings on which teacher pods and their clients must agree."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message either side takes."""

RETRY_AFTER = "retry-after-ms"
"""Trailing metadata of a RESOURCE_EXHAUSTED answer: when to try again (milliseconds, a decimal integer)."""

_SIZES = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


def server_options() -> list[tuple[str, int]]:
    """Options of a teacher's server: sizes, keepalive, and a port that no second process shares."""
    return [
        *_SIZES,
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # What a client may ping without being cut off; must not exceed the clients' own interval.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def client_options() -> list[tuple[str, int]]:
    """Options of a client's channel to one pod: sizes, keepalive, and quick attempts to connect anew."""
    return [
        *_SIZES,
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.enable_http_proxy", 0),
        # A pod that comes back is found by our own probes; a connection attempt must not sleep for two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
