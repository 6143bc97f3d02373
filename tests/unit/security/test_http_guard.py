"""The token on HTTP: what is open, what is not, and that every route of every service is one or the other."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from xopd_trainer.app import make_trainer_app
from xopd_trainer.telemetry.metrics import TrainerMetrics

from xopd.security.token import OPEN_PATHS, HttpGuard
from xopd.service.http import make_app
from xopd.status.model import RunStatus

TOKEN = "0123456789abcdef-of-a-test"


async def fine() -> str | None:
    return None


async def status() -> RunStatus:
    return RunStatus(phase="training")


@pytest.fixture
def running() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@pytest.fixture
def app(running: asyncio.Event) -> FastAPI:
    return make_trainer_app(TrainerMetrics(), running, status, fine)


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(HttpGuard(app, TOKEN))


def test_probes_and_metrics_are_open_and_nothing_else(app, client):
    paths = {getattr(route, "path", "") for route in app.routes}
    assert {"/status", "/pause", "/resume", "/version", "/docs", "/openapi.json"} <= paths
    for path in sorted(paths | {"/nowhere", "/metrics/", "/healthz/../status", "//metrics"}):
        for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT"):
            refused = client.request(method, path).status_code == 401
            assert refused == (path not in OPEN_PATHS), (method, path)
    assert {path for path in paths if client.get(path).status_code == 200} == OPEN_PATHS


def test_no_other_protocol_gets_through(client):
    with pytest.raises(RuntimeError, match="no service has websockets"), client.websocket_connect("/status"):
        pass


def test_control_needs_the_token(client, running):
    for headers in ({}, {"Authorization": "Bearer wrong-wrong-wrong"}, {"Authorization": TOKEN}):
        answer = client.post("/pause", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "security.token" in answer.json()["detail"]
        assert TOKEN not in answer.text
        assert running.is_set()
    shown = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post("/pause", headers=shown).json() == {"paused": True}
    assert not running.is_set()
    assert client.get("/status", headers=shown).json()["phase"] == "training"


def test_two_tokens_are_none(client):
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
    assert client.get("/status", headers=headers).status_code == 401


def test_a_service_without_a_token_is_as_before():
    app = make_app("teacher", "none", "0", CollectorRegistry(), fine, fine)
    assert TestClient(app).get("/version").status_code == 200
