"""The trainer's run, top to bottom: test the teachers, evaluate the base, train, evaluate, export, sum up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from xopd.config import Config
from xopd.data import Item
from xopd.errors import UserError
from xopd.ledger import Ledger
from xopd.ledger.begun import refuse_changes, write_begun
from xopd.prompts.conditionings import Conditionings
from xopd.scoring import ScoringError, TeacherClient
from xopd.service.lifecycle import end_tasks
from xopd_trainer.dispatch.collector import Collector
from xopd_trainer.dispatch.data_order import DataOrder
from xopd_trainer.dispatch.dispatcher import Dispatcher
from xopd_trainer.dispatch.watch import watch
from xopd_trainer.held_out import HeldOut
from xopd_trainer.learning.handle import LearnerHandle
from xopd_trainer.methods import Preparation
from xopd_trainer.state.history import History
from xopd_trainer.state.lease import LeaseLostError, TrainerLease
from xopd_trainer.state.publisher import Publisher
from xopd_trainer.state.records import Records
from xopd_trainer.state.run_files import RunFiles
from xopd_trainer.state.status import Status, StatusKeeper
from xopd_trainer.state.summary import make_summary
from xopd_trainer.step import StepRunner
from xopd_trainer.teacher_test import try_teachers
from xopd_trainer.telemetry.metrics import TrainerMetrics
from xopd_trainer.telemetry.redis_gauges import keep_gauges

log = structlog.get_logger(__name__)
STOP_GRACE_S = 60.0
"""Longest wait for the step under way when the run is stopped (seconds)."""


@dataclass(frozen=True)
class Parts:
    """What a run is made of; `assembly.py` puts it together."""

    learner: LearnerHandle
    teacher: TeacherClient
    conditionings: Conditionings
    dispatcher: Dispatcher
    collector: Collector
    steps: StepRunner
    held_out: HeldOut
    publisher: Publisher
    history: History
    ledger: Ledger
    lease: TrainerLease
    files: RunFiles
    status: Status
    status_keeper: StatusKeeper
    records: Records
    metrics: TrainerMetrics


class Run:
    """One life of the trainer. What must survive it lies in the run's folder."""

    def __init__(self, config: Config, items: Sequence[Item], parts: Parts) -> None:
        """Nothing is sent yet."""
        self.config = config
        self.items = items
        self.parts = parts
        self.status = parts.status
        self.metrics = parts.metrics
        self.running = asyncio.Event()
        """Cleared to pause before the next step."""
        self.running.set()
        self._done_step = 0
        self._in_step = self._stopping = False
        self._skipped_in_row = 0

    async def run(self, resume: bool, stop: asyncio.Event) -> None:
        """Run to the end, or until `stop` is set: then a checkpoint is written first.

        Raises:
            UserError: for what the user can put right, such as a teacher with another vocabulary.
        """
        parts = self.parts
        earlier = parts.ledger.run_ids
        if resume and parts.ledger.newest_step:
            refuse_changes(parts.files.folder, self.config, self.items)
        write_begun(parts.files.folder, self.config, self.items)
        begin = parts.history.resume if resume else parts.history.begin
        step = self._done_step = await begin(parts.lease.run_id)
        await parts.lease.acquire(earlier)
        await self._clear_streams()
        await parts.publisher.announce_run()
        await parts.publisher.publish(step)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(parts.lease.release)
            background = [
                asyncio.create_task(parts.lease.keep()),
                asyncio.create_task(parts.collector.run()),
                asyncio.create_task(watch(parts.dispatcher, parts.publisher, self.config.run.stall_timeout_s)),
                asyncio.create_task(keep_gauges(parts.lease.client, parts.lease.keys, parts.metrics, parts.ledger)),
                asyncio.create_task(parts.status_keeper.keep()),
            ]
            stack.push_async_callback(end_tasks, background)
            main = asyncio.create_task(self._train_and_evaluate(step))
            stack.push_async_callback(end_tasks, [main])
            stopping = asyncio.create_task(stop.wait())
            stack.push_async_callback(end_tasks, [stopping])
            done, _ = await asyncio.wait([main, stopping, *background], return_when=asyncio.FIRST_COMPLETED)
            try:
                if stopping in done and main not in done:
                    await self._stop(main)
                for task in done - {stopping}:
                    task.result()
            except ScoringError as error:
                await self._checkpoint_if_new()
                raise UserError(f"the teacher cannot score: {error}; see its log, then resume.") from None
            except LeaseLostError:
                raise
            except UserError:
                await self._checkpoint_if_new()
                raise

    async def _train_and_evaluate(self, step: int) -> None:
        """From policy version `step` to the summary."""
        parts, config = self.parts, self.config
        await self._test_teachers(step)
        teacher = await parts.held_out.score_teacher()
        base = await parts.held_out.score_student("base", 0, step)
        order = self._data_order()
        await self._prepare_method(order)
        if config.evals.every and step == 0:
            await parts.held_out.score_dev(0)

        while step < config.run.steps:
            if not self.running.is_set():
                self.status.enter("paused")
                await self.running.wait()
            if self._stopping:
                return
            step += 1
            await self._take_step(step, order.items_of(step))
            last = step == config.run.steps
            if config.evals.every and (step % config.evals.every == 0 or last):
                await parts.held_out.score_dev(step)
            if last:
                await parts.history.last_checkpoint(step)
            elif step % config.run.checkpoint_every == 0 or parts.history.due:
                await parts.history.try_checkpoint(step)

        final = await parts.held_out.score_student("final", step, step)
        self.status.enter("exporting")
        await parts.learner.export(parts.files.export)
        parts.files.write_summary(
            make_summary(
                config,
                await parts.status_keeper.answer(),
                parts.ledger.accounts,
                teacher,
                base,
                final,
                parts.records.tokens_per_s(),
                parts.history.wall_s,
            )
        )
        await parts.publisher.announce_run(finished=True)
        self.status.enter("finished")

    async def _take_step(self, step: int, items: Sequence[Item]) -> None:
        """One step, taken and written down.

        Raises:
            UserError: as `StepRunner.take`, and where too many steps in a row had to be skipped.
        """
        self.status.enter("training")
        self._in_step = True
        finished = await self.parts.steps.take(step, items)
        self.parts.records.step(finished, self.parts.history.wall_s, self.parts.publisher.published_bytes)
        self._skipped_in_row = self._skipped_in_row + 1 if finished.result.skipped else 0
        if finished.result.skipped:
            log.warning("step skipped: loss or gradient not finite", step=step, in_row=self._skipped_in_row)
        if self._skipped_in_row >= self.config.trainer.max_skipped_steps:
            raise UserError(
                f"the loss or the gradient was not finite in {self._skipped_in_row} steps in a row, the last of them"
                f" {step}: the weights of before are in the checkpoint; look at the advantages and importance ratios of"
                " metrics.jsonl, lower optimiser.learning_rate or set objective.advantage_clamp, then resume."
            )
        self._in_step, self._done_step = False, step

    def _data_order(self) -> DataOrder:
        split = self.config.data.train_split
        train = [item for item in self.items if item.split == split and item.kind == "task"]
        return DataOrder(train, self.config.trainer.batch_prompts, self.config.run.seed)

    async def _test_teachers(self, step: int) -> None:
        """Every teacher is asked the same in several ways, before anything is learnt from its scores."""
        self.status.enter("teacher_test", "the teachers are asked the same in several ways")
        parts, tasks = self.parts, self.parts.held_out.tasks
        longest = self.config.evals.max_new_tokens
        found = await try_teachers(parts.teacher, tasks, parts.conditionings, parts.learner.method, longest)
        parts.records.teacher_test(step, found)

    async def _prepare_method(self, order: DataOrder) -> None:
        """Let the method get ready with the items that the run will train on."""
        seen = {item.id: item for step in range(1, self.config.run.steps + 1) for item in order.items_of(step)}
        self.status.enter("preparing", "the method gets ready", len(seen))
        parts, items = self.parts, list(seen.values())
        kept = parts.files.teacher_responses
        preparation = Preparation(items, parts.conditionings, parts.teacher, kept, self.status.advance)
        await parts.learner.method.prepare(preparation)

    async def _stop(self, main: asyncio.Task[None]) -> None:
        """Let the step under way end, if it can, and write a checkpoint."""
        self.status.enter("stopping", "finishing the step")
        log.info("stopping", step=self._done_step)
        self._stopping = True
        if self._in_step:
            await asyncio.wait([main], timeout=STOP_GRACE_S)
        await end_tasks([main])
        await self._checkpoint_if_new()

    async def _checkpoint_if_new(self) -> None:
        # Cut off within a step, the weights may lie between two versions: the last checkpoint stands.
        if not self.parts.steps.learning and self._done_step > self.parts.history.checkpointed_step:
            await self.parts.history.try_checkpoint(self._done_step)

    async def _clear_streams(self) -> None:
        """Remove what an earlier life left: its run id is gone, so all of it is stale."""
        keys = self.parts.lease.keys
        await self.parts.lease.client.delete(keys.prompts, keys.trajectories, keys.weights)
        self.parts.publisher.sender.clear()
        await self.parts.dispatcher.prompts.ensure_group()
        await self.parts.collector.trajectories.ensure_group()
