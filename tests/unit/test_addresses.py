"""What a service says its address is."""

from __future__ import annotations

import socket

import pytest

from xopd.service.http import http_url, reachable_host

REDIS = "redis://:secret@127.0.0.1:6379/0"


def test_a_bound_address_is_announced_as_it_is() -> None:
    assert reachable_host("10.1.2.3", None, REDIS) == "10.1.2.3"
    assert reachable_host("pod.example", None, REDIS) == "pod.example"


@pytest.mark.parametrize("every", ["0.0.0.0", "::"])
def test_every_interface_is_never_announced(every: str) -> None:
    assert reachable_host(every, None, REDIS) == "127.0.0.1"
    assert reachable_host(every, None, "unix:///run/redis.sock") == socket.gethostname()
    assert reachable_host(every, None, "redis://no.such.name.invalid:6379") == socket.gethostname()
    assert reachable_host(every, None, None) == socket.gethostname()


def test_the_user_has_the_last_word() -> None:
    assert reachable_host("0.0.0.0", "10.9.9.9", REDIS) == "10.9.9.9"


def test_urls() -> None:
    assert http_url("10.1.2.3", 8080) == "http://10.1.2.3:8080"
    assert http_url("::1", 8080) == "http://[::1]:8080"
