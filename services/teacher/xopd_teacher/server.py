"""A teacher pod's life: listen, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from xopd.config.checkpoints import checkpoint_name
from xopd.config.schema import TeacherSettings
from xopd.errors import UserError
from xopd.scoring.authentication import TokenGuard, add_port
from xopd.scoring.channel import server_options
from xopd.security import Credentials
from xopd.service.http import bind, make_app, serving
from xopd.service.lifecycle import announce_addresses
from xopd.telemetry import Tracer
from xopd.v1 import teacher_pb2, teacher_pb2_grpc
from xopd_teacher.batcher import FAILURES_TO_DIE, Batcher
from xopd_teacher.engines import Engine, EngineInfo
from xopd_teacher.engines.base import Floats, engine_version
from xopd_teacher.engines.open import open_engine
from xopd_teacher.metrics import TeacherMetrics
from xopd_teacher.service import LogprobService
from xopd_teacher.validation import Limits

log = structlog.get_logger(__name__)
NAME = teacher_pb2.DESCRIPTOR.services_by_name["LogprobService"].full_name
LAST_WORDS_S = 2.0
"""Time for answers to reach their callers, once all are computed."""


async def serve(
    settings: TeacherSettings,
    credentials: Credentials,
    stop: asyncio.Event,
    tracing: AbstractAsyncContextManager[Tracer],
    one_by_one: bool = False,
) -> None:
    """Run one teacher pod with `credentials` until `stop` is set and what it accepted is answered.

    `tracing` is entered once the engine is up, which may fork. With `one_by_one` no two requests share a forward pass:
    what shares a batch changes the last bits of a sum.

    Raises:
        UserError: for a checkpoint, an engine or a port that cannot be used.
    """
    version = engine_version(settings.engine)
    pod = _Pod(settings, credentials, one_by_one)
    grpc_port = pod.bind_grpc()
    listener = bind(settings.host, settings.http_port, "teacher.http_port")
    app = make_app("teacher", settings.engine, version, pod.metrics.registry, pod.alive, pod.ready)
    async with serving(app, listener, credentials):
        # Announced before the model is loaded: probes can be answered, and /readyz says what is awaited.
        grpc_address = f"{settings.host}:{grpc_port}"
        http_address = f"{settings.host}:{listener.getsockname()[1]}"
        announce_addresses(grpc=grpc_address, http=http_address, scheme=credentials.scheme)
        with ThreadPoolExecutor(1, thread_name_prefix="engine") as thread:
            engine, probed = await _load(settings, thread, stop)
            async with tracing as tracer:
                await pod.start(engine, probed, thread, tracer)
                log.info("serving", grpc=grpc_address, model=settings.path, engine=settings.engine, version=version)
                await stop.wait()
                await pod.drain()
    log.info("ended")


class _Pod:
    """What listens, and what it knows of itself."""

    def __init__(self, settings: TeacherSettings, credentials: Credentials, one_by_one: bool) -> None:
        self.settings = settings
        self.credentials = credentials
        self.one_by_one = one_by_one
        self.metrics = TeacherMetrics()
        self.health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        guards = [] if credentials.token is None else [TokenGuard(credentials.token)]
        self.server = grpc.aio.server(interceptors=guards, options=server_options())
        self.service: LogprobService | None = None
        self._batching: asyncio.Task[None] | None = None

    def bind_grpc(self) -> int:
        """Bind the gRPC port, so that a taken one is told before the model is loaded."""
        address = f"{self.settings.host}:{self.settings.port}"
        try:
            return add_port(self.server, address, self.credentials)
        except RuntimeError:
            raise UserError(f"teacher.port: {address} cannot be bound; free it, or set another.") from None

    async def alive(self) -> str | None:
        """For /healthz: what is broken beyond repair."""
        if self._batching is not None and self._batching.done():
            return "the batching loop has ended"
        if self.service is not None and self.service.batcher.failures_in_a_row >= FAILURES_TO_DIE:
            return f"the engine failed on {self.service.batcher.failures_in_a_row} batches in a row"
        return None

    async def ready(self) -> str | None:
        """For /readyz: what is missing."""
        if self.service is None:
            return "the model is being loaded"
        if self.service.draining:
            return "shutting down"
        return await self.alive()

    async def start(self, engine: Engine, probed: Floats, thread: ThreadPoolExecutor, tracer: Tracer) -> None:
        """Take requests. The engine has been warmed up by its own start, at which it scored the probe."""
        settings = self.settings
        batcher = Batcher(
            engine,
            thread,
            self.metrics,
            # A batch holds at least one request, however large.
            1 if self.one_by_one else settings.token_budget,
            settings.batch_window_ms / 1000,
            settings.max_queue,
        )
        model = checkpoint_name(settings.path, 12)
        limits = limits_of(settings, engine.info)
        self.service = LogprobService(model, engine.info, limits, probed, batcher, self.metrics, tracer)
        teacher_pb2_grpc.add_LogprobServiceServicer_to_server(self.service, self.server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self.server)
        self._batching = asyncio.create_task(batcher.run())
        for name in ("", NAME):
            await self.health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self.server.start()
        self.metrics.ready.set(1)

    async def drain(self) -> None:
        """Refuse new requests and finish the accepted ones; no caller waits for them beyond its deadline."""
        assert self.service is not None and self._batching is not None
        self.service.draining = True
        self.metrics.ready.set(0)
        await self.health.enter_graceful_shutdown()
        log.info("draining", waiting=self.service.batcher.depth())
        finished = asyncio.create_task(self.service.batcher.until_idle())
        await asyncio.wait((finished, self._batching), timeout=self.settings.deadline_s, return_when="FIRST_COMPLETED")
        finished.cancel()
        await self.server.stop(LAST_WORDS_S)
        self._batching.cancel()
        await asyncio.gather(self._batching, return_exceptions=True)


def limits_of(settings: TeacherSettings, info: EngineInfo) -> Limits:
    """What one request may ask for. Top-k stays below the vocabulary's size: there is always a tail."""
    return Limits(
        max_context_tokens=info.max_context_tokens,
        max_tokens_per_request=settings.token_budget,
        max_responses_per_request=settings.max_responses,
        max_top_k=min(settings.max_top_k, info.vocabulary.size - 1),
    )


async def _load(settings: TeacherSettings, thread: ThreadPoolExecutor, stop: asyncio.Event) -> tuple[Engine, Floats]:
    # On the engine's own thread: the number of torch's threads is a setting of the thread that computes.
    loading = asyncio.get_running_loop().run_in_executor(thread, open_engine, settings)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        # Nothing was accepted, so there is nothing to finish; a checkpoint's loading cannot be interrupted.
        log.info("ended while loading")
        os._exit(0)
    stopped.cancel()
    return await loading
