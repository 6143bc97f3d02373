"""What of a run outlives its trainer: checkpoints, the ledger's steps and the records; how a life goes on from them.

A checkpoint names the content of its step, so it fits one history in the ledger and no other. What came after the
newest whole checkpoint is taken back in the ledger and in the records, and done again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from xopd.config import Config
from xopd.errors import UserError
from xopd.ledger import Ledger, LedgerError
from xopd.streams.retry import RetryPolicy
from xopd_trainer.learning.checkpoint import Checkpoint, newest_checkpoint
from xopd_trainer.learning.handle import LearnerHandle
from xopd_trainer.state.run_files import RunFiles
from xopd_trainer.state.status import Status
from xopd_trainer.telemetry.metrics import TrainerMetrics

log = structlog.get_logger(__name__)


class History:
    """Of one run, as one life of its trainer sees it."""

    def __init__(
        self,
        config: Config,
        learner: LearnerHandle,
        ledger: Ledger,
        files: RunFiles,
        status: Status,
        metrics: TrainerMetrics,
        acknowledge: Callable[[], Awaitable[None]],
    ) -> None:
        """Nothing is read yet. `acknowledge` is called when a checkpoint holds every step taken so far."""
        self.config = config
        self.learner = learner
        self.ledger = ledger
        self.files = files
        self.status = status
        self.metrics = metrics
        self.acknowledge = acknowledge
        self.checkpointed_step = 0
        self.due = False
        """Whether a checkpoint could not be written, and the next step shall try again."""
        self._wall_before = 0.0
        self._began = time.monotonic()

    @property
    def wall_s(self) -> float:
        """Seconds that the run has taken, earlier lives included."""
        return self._wall_before + time.monotonic() - self._began

    async def begin(self, run_id: str) -> int:
        """Begin a life at the base; returns its step, 0.

        Raises:
            UserError: if the run has taken steps already.
        """
        if self.ledger.newest_step:
            raise UserError(
                f"{self.files.folder}: holds a run of {self.ledger.newest_step} steps; give --resume to continue it, or"
                " --set run.name=NAME for a new one."
            )
        self.ledger.begin_life(run_id, 0)
        return 0

    async def resume(self, run_id: str) -> int:
        """Begin a life at the newest whole checkpoint, or at the base without any; returns its step.

        Raises:
            UserError: if no checkpoint is whole, or the newest is not of the ledger's history.
        """
        checkpoint = await asyncio.to_thread(newest_checkpoint, self.files.checkpoints)
        if checkpoint is None:
            self.ledger.begin_life(run_id, 0)
            self.files.forget_after(0)
            self.files.event(0, "resumed", "from the base: there is no checkpoint yet")
            return 0
        self._assert_of_this_history(checkpoint)
        await self.learner.load(checkpoint)
        self.ledger.begin_life(run_id, checkpoint.step)
        self._wall_before = float(checkpoint.state["wall_s"])
        self.files.forget_after(checkpoint.step)
        for record in self.files.records():
            if record["kind"] == "step":
                self.status.record_step(record)
            elif record["kind"] == "eval" and record["split"] == "dev":
                self.status.record_evaluation(record)
        self.files.event(checkpoint.step, "resumed", f"from the checkpoint of step {checkpoint.step}")
        self.checkpointed_step = checkpoint.step
        log.info("resumed", step=checkpoint.step)
        return checkpoint.step

    async def try_checkpoint(self, step: int) -> None:
        """Write one, or go on without where the disk is full: the next step tries again."""
        try:
            await self.checkpoint(step)
        except OSError as error:
            self.due = True
            self.metrics.outage_waits.inc()
            log.warning("no checkpoint: trying again at the next step", step=step, error=str(error))
            self.files.event(step, "checkpoint_failed", f"{error}; trying again at the next step")

    async def last_checkpoint(self, step: int) -> None:
        """Write the run's last one; a full disk is waited for.

        Raises:
            UserError: if it stays full.
        """
        retry = RetryPolicy(self.config.run.stall_timeout_s, self.metrics.outage_waits.inc)
        try:
            async for attempt in retry.attempts("the last checkpoint"):
                with attempt:
                    await self.checkpoint(step)
        except OSError as error:
            raise UserError(
                f"{self.files.checkpoints}: the last checkpoint cannot be written ({error}); free space, then resume."
            ) from None

    async def checkpoint(self, step: int) -> None:
        """Write one of step `step`, the newest; then its trajectories can go. Raises OSError on a full disk."""
        state = {
            "content": self.ledger.content_of(step).hex(),
            "wall_s": self.wall_s,
            "seconds": self.status.seconds,
            "run": self.config.run.name,
        }
        await self.learner.save(self.files.checkpoints, step, state, self.config.run.keep_checkpoints)
        self.checkpointed_step, self.due = step, False
        await self.acknowledge()

    def _assert_of_this_history(self, checkpoint: Checkpoint) -> None:
        try:
            known = self.ledger.content_of(checkpoint.step).hex()
        except LedgerError:
            known = ""
        if known != checkpoint.state.get("content"):
            raise UserError(
                f"{self.files.folder}: the checkpoint of step {checkpoint.step} is not of the history in"
                f" {self.ledger.path.name}; bring back the ledger that belongs to it, or begin the run anew."
            )
