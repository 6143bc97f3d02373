"""The trainer's status: kept by the loop, answered at /status, and written to Redis for `xopd status`."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import redis.asyncio as aioredis
import structlog
from pydantic import PrivateAttr

from xopd.ledger import Ledger
from xopd.report.records import Accounts, EvalRecord, StepRecord
from xopd.scoring import TeacherClient
from xopd.status.model import History, Progress, RunStatus, TeacherStatus
from xopd.status.read import read_pods
from xopd.streams import Keys
from xopd.streams.retry import OUTAGES
from xopd.telemetry.clock import Recent
from xopd_trainer.state.publisher import Publisher

log = structlog.get_logger(__name__)
STAGES = ("rollout", "score", "learn", "sync", "wait")
HISTORY = 60
"""Steps of which the history tells, and whose pace the time left is reckoned from."""
INTERVAL_S = 2.0
"""Seconds between two writings to Redis."""
EXPIRY_S = 30.0
"""The key outlives so long a silence: the loop may be held up by a long computation (seconds)."""


class Status(RunStatus):
    """The run's status with what the loop reports to it."""

    _recent: deque[StepRecord] = PrivateAttr(default_factory=lambda: deque(maxlen=HISTORY))

    def enter(self, phase: str, detail: str = "", total: int | None = None) -> None:
        """Begin a phase; with `total` it has progress."""
        self.phase, self.detail = phase, detail
        self.progress = None if total is None else Progress(total=total)

    def advance(self, done: int, total: int) -> None:
        """Report progress within the phase."""
        self.progress = Progress(done=done, total=total)

    def record_evaluation(self, record: dict[str, Any]) -> None:
        """Take in an evaluation's record."""
        self.evals.append(EvalRecord.model_validate(record))

    def record_step(self, record: dict[str, Any]) -> None:
        """Take in a finished step's record."""
        self.latest = StepRecord.model_validate(record)
        self.step = self.latest.step
        self._recent.append(self.latest)
        pace = sum(recent.seconds["total"] for recent in self._recent) / len(self._recent)
        self.eta_s = pace * (self.steps - self.step)
        self.seconds = {stage: self.seconds.get(stage, 0.0) + self.latest.seconds[stage] for stage in STAGES}
        self.history = History(
            step=[recent.step for recent in self._recent],
            kl_text=[recent.text.kl if recent.text else None for recent in self._recent],
            kl_speech=[recent.speech.kl if recent.speech else None for recent in self._recent],
        )


class StatusKeeper:
    """Completes the status by what others know, and keeps it in Redis."""

    def __init__(
        self,
        client: aioredis.Redis,
        keys: Keys,
        status: Status,
        publisher: Publisher,
        ledger: Ledger,
        teacher: TeacherClient,
    ) -> None:
        """Of the run of `publisher`."""
        self.client = client
        self.keys = keys
        self.status = status
        self.publisher = publisher
        self.ledger = ledger
        self.teacher = teacher
        self._scored = Recent()

    async def keep(self) -> None:
        """Write it until cancelled, and once more then: the last phase should be seen."""
        try:
            while True:
                await self._write()
                await asyncio.sleep(INTERVAL_S)
        finally:
            await self._write()

    async def answer(self) -> RunStatus:
        """The answer of /status; it has no pods while Redis cannot be reached."""
        await self._complete()
        try:
            self.status.pods = await read_pods(self.client, self.keys, time.time())
        except OUTAGES:
            self.status.pods = []
        return self.status

    async def _complete(self) -> None:
        status = self.status
        status.run_id, status.policy_version = self.publisher.info.run_id, self.publisher.version
        status.accounts = Accounts.model_validate(self.ledger.accounts.as_json())
        status.teachers = [TeacherStatus.model_validate(about) for about in await self.teacher.describe()]
        totals = {teacher.endpoint: float(teacher.scored_tokens) for teacher in status.teachers}
        seconds, grown = self._scored.growth(time.monotonic(), totals)
        for teacher in status.teachers:
            teacher.tokens_per_second = grown[teacher.endpoint] / seconds if seconds else 0.0
        status.beat_at = time.time()

    async def _write(self) -> None:
        await self._complete()
        # The pods say themselves how they are.
        text = self.status.model_dump_json(exclude={"pods"})
        try:
            await self.client.set(self.keys.status, text, px=int(EXPIRY_S * 1000))
        except OUTAGES as error:
            log.warning("status not written", error=str(error))
