"""A pod's life: listen, start the engine, work, drain."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import redis.asyncio as aioredis
import structlog
from pydantic import ValidationError
from redis.exceptions import RedisError

from xopd.config.schema import Config
from xopd.config.section import first_message
from xopd.errors import UserError
from xopd.families import ModelFamily
from xopd.families.checkpoint_files import check_weight_files
from xopd.security import Credentials
from xopd.service.folders import ensure_writable
from xopd.service.http import bind, http_url, reachable_host, serving
from xopd.service.lifecycle import announce_addresses, large_imports
from xopd.streams import DeadLetters, Keys, connect
from xopd.streams.memory import refuse_eviction
from xopd.telemetry import tracing
from xopd.telemetry.clock import ActivityClock
from xopd.weights import WeightAnnouncements
from xopd_rollout.app import Served, make_rollout_app
from xopd_rollout.contract import EngineDiedError, PolicyEngine
from xopd_rollout.groups import GroupSampler
from xopd_rollout.heartbeat import Heartbeat
from xopd_rollout.metrics import ACTIVITIES, RolloutMetrics
from xopd_rollout.prompt_check import PromptCheck
from xopd_rollout.run_check import check_run
from xopd_rollout.updater import PolicyUpdater
from xopd_rollout.worker import Worker

if TYPE_CHECKING:
    from xopd.weights.transports import Receivers
    from xopd_rollout.audio import AudioInput

log = structlog.get_logger(__name__)


class Pod:
    """One rollout pod."""

    def __init__(self, config: Config, credentials: Credentials) -> None:
        """Nothing is started yet."""
        self.config = config
        self.credentials = credentials
        self.pod_id = config.rollout.pod_id or f"{socket.gethostname()}-{os.getpid()}"
        self.keys = Keys(config.redis.prefix)
        self.clock = ActivityClock(*ACTIVITIES)
        self.metrics = RolloutMetrics(self.clock)
        self.served = Served()
        self.worker: Worker | None = None
        self.client: aioredis.Redis | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            UserError: if the student, Redis or the run does not fit.
            EngineDiedError: if the engine's process has ended.
        """
        settings = self.config.rollout
        listener = bind(settings.host, settings.port, "rollout.port")
        if self.config.student.audio_input == "features":
            ensure_writable(self.config.student.feature_cache, "student.feature_cache")
        app = make_rollout_app(self.config, self.metrics, self.served, self._alive, self._ready)
        async with serving(app, listener, self.credentials):
            host, port = listener.getsockname()[:2]
            announce_addresses(http=f"{host}:{port}", scheme=self.credentials.scheme)
            self.client = await connect(self.config.redis)
            try:
                await refuse_eviction(self.client, self.config.redis)
                family = await asyncio.to_thread(self._open_family)
                await check_run(self.client, self.keys, family, self.metrics)
                receivers = await asyncio.to_thread(self._make_receivers, family)
                engine = await self._started_engine(receivers, stop)
                if engine is not None:
                    peer = self.config.redis.url
                    shown = await asyncio.to_thread(reachable_host, host, settings.announce, peer)
                    url = http_url(shown, port, self.credentials.scheme)
                    async with self._assembled(engine, family, receivers, self.client, url) as worker:
                        await worker.run(stop)
            finally:
                await self.client.aclose()

    async def _started_engine(self, receivers: Receivers, stop: asyncio.Event) -> PolicyEngine | None:
        """The engine, or None where a stop came before it was up."""
        starting = asyncio.ensure_future(asyncio.to_thread(self._start_engine, receivers))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done():
            return starting.result()
        # The thread ends once the engine's process has.
        for child in multiprocessing.active_children():
            child.kill()
        with contextlib.suppress(Exception):
            (await starting).close()
        return None

    @contextlib.asynccontextmanager
    async def _assembled(
        self, engine: PolicyEngine, family: ModelFamily, receivers: Receivers, client: aioredis.Redis, url: str
    ) -> AsyncIterator[Worker]:
        """Everything around the engine, and the heartbeat; ends them and the engine."""
        try:
            # Not before: the engine's process is forked off this one.
            async with tracing(self.config, "rollout", self.pod_id) as tracer:
                audio = await asyncio.to_thread(self._open_audio, family)
                dead = DeadLetters(client, self.keys.dead, self.pod_id)
                announcements = WeightAnnouncements(client, self.keys, dead=dead)
                announcements.on_unreadable = self._unreadable_announcement
                updater = PolicyUpdater(
                    engine,
                    announcements,
                    partial(check_run, client, self.keys, family, self.metrics),
                    self.config.rollout.update_timeout_s,
                    self.clock,
                    self.metrics,
                    tracer,
                    receivers,
                )
                sampler = GroupSampler(
                    self.pod_id,
                    engine,
                    updater,
                    audio,
                    self.clock,
                    self.config.rollout.group_timeout_s,
                    tracer,
                    PromptCheck.of(family, self.config.rollout.max_model_len),
                    self.metrics,
                )
                worker = Worker(self.config, client, self.keys, sampler, self.metrics, tracer)
                self.served.family, self.served.sampler, self.worker = family, sampler, worker
                log.info("ready", pod=self.pod_id, url=url, student=self.config.student.path)
                async with Heartbeat(client, self.keys, worker, updater, self.clock, self.metrics, url):
                    self.metrics.ready.set(1)
                    yield worker
                await audio.close()
        finally:
            self.metrics.ready.set(0)
            await asyncio.to_thread(engine.close)

    def _unreadable_announcement(self) -> None:
        self.metrics.refused.labels("message").inc()
        self.metrics.dead_letters.inc()

    # What follows runs in threads, and imports transformers, vLLM and torch there: /healthz answers meanwhile.

    def _open_family(self) -> ModelFamily:
        with large_imports():
            from xopd.families import open_family

        return open_family(self.config.student.path, self.config.student.family)

    def _open_audio(self, family: ModelFamily) -> AudioInput:
        from xopd_rollout.audio import open_audio_input

        return open_audio_input(self.config, family, self.metrics)

    def _make_receivers(self, family: ModelFamily) -> Receivers:
        check_weight_files("student.path", Path(self.config.student.path))
        from xopd.weights.contents import TrainedTensors
        from xopd.weights.transports import Receivers, receiver_settings

        return Receivers(receiver_settings(self.config), TrainedTensors.of(family, self.config.student.dtype))

    def _start_engine(self, receivers: Receivers) -> PolicyEngine:
        with large_imports():
            import torch

            from xopd_rollout.engine import Engine

        try:
            engine = Engine(self.config, receivers)
        except (ValueError, RuntimeError, OSError) as error:
            log.exception("the engine did not start")
            raise UserError(
                f"student.path {self.config.student.path}: vLLM did not start with it ({_first_sentence(error)});"
                " correct `rollout` or `student`, the log above says more."
            ) from None
        if self.config.rollout.threads:
            torch.set_num_threads(self.config.rollout.threads)
        return engine

    async def _alive(self) -> str | None:
        if self.served.sampler is None:
            return None
        try:
            await self.served.sampler.engine.check_health()
        except EngineDiedError as error:
            return str(error)
        return "a group has not ended in time" if self.served.sampler.overdue else None

    async def _ready(self) -> str | None:
        if self.worker is None or self.client is None:
            return "the engine is starting"
        if self.worker.draining:
            return "draining"
        try:
            await asyncio.wait_for(self.client.ping(), timeout=2.0)
        except (RedisError, OSError, TimeoutError) as error:
            return f"redis does not answer ({error})"
        return await self._alive()


def _first_sentence(error: Exception) -> str:
    text = first_message(error) if isinstance(error, ValidationError) else str(error)
    return text.splitlines()[0].split(". ")[0] if text else type(error).__name__
