"""Which policy version the engine holds, and how a group gets the version that it must be sampled from.

Groups take turns in the order in which they ask. One that finds a fitting version goes ahead at once; one that does
not waits until those under way have finished, then has its version loaded: responses of two versions never mix.
A version is known by (run_id, version, sha256): another run's version of the same number is another policy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import structlog

from xopd.errors import UserError
from xopd.telemetry import Tracer
from xopd.telemetry.clock import ActivityClock
from xopd.v1 import weights_pb2 as pb
from xopd.weights import WeightAnnouncements, WeightReceiver
from xopd.weights.base import WeightsUnavailableError
from xopd.weights.transports import Receivers
from xopd_rollout.contract import NO_VERSION, EngineDiedError, PolicyEngine, WeightsRejectedError
from xopd_rollout.metrics import RolloutMetrics
from xopd_rollout.spans import update_span

log = structlog.get_logger(__name__)
NEWEST = 2**62
RunCheck = Callable[[], Awaitable[pb.RunInfo | None]]
"""Reads the run that is under way, and raises UserError where this pod's student cannot serve it."""


class PolicyUnavailableError(RuntimeError):
    """The version asked for cannot be had; the text says why."""


@dataclass(frozen=True)
class Policy:
    """The version that the engine holds."""

    run_id: str
    version: int
    sha256: str


class PolicyUpdater:
    """Hands out turns on the engine at a fitting version."""

    def __init__(
        self,
        engine: PolicyEngine,
        announcements: WeightAnnouncements,
        check_run: RunCheck,
        timeout_s: float,
        clock: ActivityClock,
        metrics: RolloutMetrics,
        tracer: Tracer,
        receivers: Receivers,
    ) -> None:
        """Wait up to `timeout_s` (seconds) for an announcement; `receivers` tell what this pod can fetch."""
        self.engine = engine
        self.announcements = announcements
        self.check_run = check_run
        self.timeout_s = timeout_s
        self.clock = clock
        self.metrics = metrics
        self.tracer = tracer
        self.receivers = receivers
        self.policy: Policy | None = None
        self._turn = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._users = 0

    @property
    def version(self) -> int:
        """The policy version that the engine holds; NO_VERSION before the first."""
        return self.policy.version if self.policy else NO_VERSION

    @contextlib.asynccontextmanager
    async def at_version(self, run_id: str, oldest: int, newest: int) -> AsyncIterator[None]:
        """Hold the engine at a version of `run_id` within [oldest, newest] while the block runs.

        Raises:
            PolicyUnavailableError: if there is none, or it cannot be loaded.
            EngineDiedError: if the engine's process has ended.
            UserError: if this pod's student cannot serve that run, or cannot see the trainer's weights.
        """
        async with self._turn:
            if not self._fits(run_id, oldest, newest):
                await self._idle.wait()
                with self.clock.counting("sync"), self.metrics.sync_seconds.time():
                    await self._update(run_id, oldest, newest)
            self._enter()
        try:
            yield
        finally:
            self._leave()

    @contextlib.asynccontextmanager
    async def at_any_version(self) -> AsyncIterator[None]:
        """Hold the engine at whatever version it has while the block runs."""
        async with self._turn:
            self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        self._users += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._idle.set()

    def _fits(self, run_id: str, oldest: int, newest: int) -> bool:
        held = self.policy
        return held is not None and held.run_id == run_id and oldest <= held.version <= newest

    async def _update(self, run_id: str, oldest: int, newest: int) -> None:
        run = await self.check_run()
        if run is not None and run.run_id != run_id:
            raise PolicyUnavailableError(f"run {run_id} has ended: {run.run_id} is under way")
        try:
            manifest = await self._find(run_id, oldest, newest)
        except WeightsUnavailableError as error:
            raise PolicyUnavailableError(str(error)) from None
        try:
            receiver = self.receivers.of(manifest)
        except WeightsUnavailableError as error:
            raise self._rejected(error) from None
        await self._check_configuration(receiver, manifest)
        # Until the load has succeeded nobody knows what the engine holds.
        held, self.policy = self.policy, None
        try:
            with update_span(self.tracer, manifest):
                async with asyncio.timeout(self.timeout_s):
                    await self.engine.apply(manifest)
        except TimeoutError:
            raise EngineDiedError(
                f"the engine did not load version {manifest.version} in {self.timeout_s:g} s"
            ) from None
        except WeightsRejectedError as error:
            self.policy = held
            raise self._rejected(error) from None
        except (EngineDiedError, UserError, asyncio.CancelledError):
            raise
        except Exception as error:  # vLLM passes the worker's error on as a bare Exception
            await self.engine.check_health()
            raise PolicyUnavailableError(f"weight version {manifest.version} was not loaded: {error}") from error
        self.policy = Policy(run_id, manifest.version, manifest.sha256)
        self.metrics.record_update(manifest.version, manifest.size_bytes)
        log.info("policy updated", run=run_id, version=manifest.version, bytes=manifest.size_bytes)

    def _rejected(self, error: Exception) -> PolicyUnavailableError:
        """A version of which nothing was applied, counted and logged."""
        self.metrics.refused_weights.inc()
        held = self.policy
        still = f"version {held.version} of run {held.run_id} is" if held else "the checkpoint's weights are"
        log.error("weights rejected", reason=str(error), held=self.version)
        return PolicyUnavailableError(f"{error}; {still} held still")

    async def _check_configuration(self, receiver: WeightReceiver, manifest: pb.WeightManifest) -> None:
        """Raise UserError where this pod can fetch no version at all: no group could ever be answered here."""
        problem = receiver.misconfigured(manifest)
        # A trainer that has just begun anew has cleared what it sent, and forgotten the announcement as well.
        if problem is not None and await self.announcements.find(manifest.run_id, manifest.version, NEWEST) is not None:
            raise UserError(problem)

    async def _find(self, run_id: str, oldest: int, newest: int) -> pb.WeightManifest:
        manifest = await self.announcements.find(run_id, oldest, newest)
        if manifest is not None:
            return manifest
        later = await self.announcements.find(run_id, newest + 1, NEWEST)
        if later is not None:
            raise PolicyUnavailableError(f"weight version {newest} is gone: {later.version} is the newest")
        return await self.announcements.wait_for(run_id, oldest, newest, self.timeout_s)
