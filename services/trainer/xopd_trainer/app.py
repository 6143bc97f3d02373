"""The trainer's HTTP endpoints: the common ones, /status, /pause and /resume."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import torch
from fastapi import FastAPI
from pydantic import BaseModel

from xopd.service.http import ReadyCheck, make_app
from xopd.status.model import RunStatus
from xopd_trainer.telemetry.metrics import TrainerMetrics


class Paused(BaseModel):
    """Answer of /pause and /resume."""

    paused: bool


def make_trainer_app(
    metrics: TrainerMetrics,
    running: asyncio.Event,
    status: Callable[[], Awaitable[RunStatus]],
    ready: ReadyCheck,
) -> FastAPI:
    """The application.

    Args:
        metrics: shown at /metrics.
        running: cleared by /pause, set by /resume; the loop waits for it between steps.
        status: gives the answer of /status.
        ready: says what is missing until the loop runs.
    """

    async def _alive() -> str | None:
        return None

    app = make_app("trainer", "torch", torch.__version__, metrics.registry, _alive, ready)

    @app.get("/status", summary="The run at a glance, its pods and teachers")
    async def get_status() -> RunStatus:
        return await status()

    @app.post("/pause", summary="Stop before the next step")
    async def pause() -> Paused:
        running.clear()
        return Paused(paused=True)

    @app.post("/resume", summary="Go on")
    async def resume() -> Paused:
        running.set()
        return Paused(paused=False)

    return app
