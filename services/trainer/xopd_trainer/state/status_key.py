"""What the trainer says of its run: a key in Redis that expires when it stops saying it, read by `xopd status`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import redis.asyncio as aioredis
import structlog
from redis.exceptions import RedisError

from xopd.ledger import Ledger
from xopd.scoring import TeacherClient
from xopd.service.recent import Recent
from xopd.streams import Keys
from xopd.v1 import weights_pb2 as pb
from xopd.wire import PROTOCOL
from xopd_trainer.state.publisher import Publisher
from xopd_trainer.state.status import Status

log = structlog.get_logger(__name__)
INTERVAL_S = 2.0
"""Seconds between two statements."""
EXPIRY_S = 30.0
"""The key outlives so long a silence: the loop may be held up by a long computation (seconds)."""
OF_TEACHER = ("endpoint", "model", "engine", "ok", "problem", "in_flight", "calls", "failures", "scored_tokens")


class Statement:
    """Gathers RunStatus and writes it under `keys.status`."""

    def __init__(
        self,
        client: aioredis.Redis,
        keys: Keys,
        status: Status,
        publisher: Publisher,
        ledger: Ledger,
        teacher: TeacherClient,
    ) -> None:
        """Speak for the run of `publisher`."""
        self.client = client
        self.key = keys.status
        self.status = status
        self.publisher = publisher
        self.ledger = ledger
        self.teacher = teacher
        self._scored = Recent()

    async def keep(self) -> None:
        """Say it until cancelled, and once more then: the last phase should be seen."""
        try:
            while True:
                await self._say()
                await asyncio.sleep(INTERVAL_S)
        finally:
            await self._say()

    def message(self, teachers: Sequence[dict[str, Any]]) -> pb.RunStatus:
        """The run, now; `teachers` as TeacherClient.describe gives them."""
        status, progress = self.status, self.status.progress or {}
        accounts = self.ledger.accounts
        scored = {about["endpoint"]: float(about["scored_tokens"]) for about in teachers}
        seconds, grown = self._scored.growth(time.monotonic(), scored)
        return pb.RunStatus(
            protocol=PROTOCOL,
            run_id=self.publisher.info.run_id,
            phase=status.phase,
            step=status.step,
            steps=status.steps,
            policy_version=self.publisher.version,
            progress_done=progress.get("done", 0),
            progress_total=progress.get("total", 0),
            eta_seconds=status.eta_s() or 0.0,
            teachers=[
                pb.TeacherStatus(
                    **{field: about[field] for field in OF_TEACHER},
                    tokens_per_second=grown[about["endpoint"]] / seconds if seconds else 0.0,
                )
                for about in teachers
            ],
            dispatched=accounts.dispatched,
            trained=accounts.trained,
            given_up=accounts.given_up,
            lost=accounts.lost,
            beat_at=time.time(),
        )

    async def _say(self) -> None:
        message = self.message(await self.teacher.describe())
        try:
            await self.client.set(self.key, message.SerializeToString(), px=int(EXPIRY_S * 1000))
        except (RedisError, OSError) as error:
            log.warning("status not written", error=str(error))
