"""The trainer's run, top to bottom: check the teacher, evaluate the base, train, evaluate, export, sum up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import redis.asyncio as aioredis
import structlog

from xopd.config import Config
from xopd.data import Item
from xopd.errors import UserError
from xopd.evals.verdicts import Evaluation
from xopd.families import ModelFamily
from xopd.ledger import Ledger
from xopd.ledger.begun import refuse_changes, write_begun
from xopd.prompts.conditionings import Conditionings
from xopd.scoring import ScoringError, TeacherClient
from xopd.service.compute_thread import ComputeThread
from xopd.service.lifecycle import end_tasks
from xopd.streams import DeadLetters, Keys, WorkStream
from xopd.streams.keys import TRAINER_GROUP
from xopd.telemetry import NO_TRACER, Tracer
from xopd.v1 import weights_pb2
from xopd.weights import WeightStore
from xopd.weights.store import remove_leftovers, store_uri
from xopd.wire import PROTOCOL
from xopd_trainer.dispatch.collector import Collector
from xopd_trainer.dispatch.data_order import DataOrder
from xopd_trainer.dispatch.dispatcher import Dispatcher
from xopd_trainer.dispatch.groups import GroupWriter
from xopd_trainer.dispatch.rejected import Refusals
from xopd_trainer.dispatch.scored_groups import GroupScorer
from xopd_trainer.dispatch.watch import watch
from xopd_trainer.evaluation import Evaluator
from xopd_trainer.learning.export import export_policy
from xopd_trainer.learning.learner import Learner
from xopd_trainer.methods import Preparation
from xopd_trainer.probe import Prober
from xopd_trainer.state.fleet import engines, read_pods
from xopd_trainer.state.history import History
from xopd_trainer.state.lease import LeaseLostError, TrainerLease
from xopd_trainer.state.publisher import Publisher
from xopd_trainer.state.run_files import RunFiles
from xopd_trainer.state.status import Status
from xopd_trainer.state.status_key import Statement
from xopd_trainer.state.summary import make_summary
from xopd_trainer.step import FinishedStep, StepRunner
from xopd_trainer.teacher_test import try_teachers
from xopd_trainer.telemetry.metrics import TrainerMetrics
from xopd_trainer.telemetry.redis_gauges import keep_gauges

log = structlog.get_logger(__name__)
STOP_GRACE_S = 60.0
"""Longest wait for the step under way when the run is stopped (seconds)."""


class Trainer:
    """One life of the trainer. What must survive it lies in the run's folder."""

    def __init__(
        self,
        config: Config,
        items: Sequence[Item],
        family: ModelFamily,
        teacher_tokenizer: Any,
        learner: Learner,
        teacher: TeacherClient,
        ledger: Ledger,
        lease: TrainerLease,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """Put the parts together; nothing is sent yet."""
        self.config = config
        self.items = items
        self.learner = learner
        self.compute = ComputeThread()
        self.family = family
        self.teacher = teacher
        self.ledger = ledger
        self.lease = lease
        self.client: aioredis.Redis = lease.client
        self.keys: Keys = lease.keys
        self.run_id = lease.run_id
        self.files = RunFiles(config)
        self.status = Status(config.run.name, config.run.steps)
        self.metrics = TrainerMetrics()
        self.running = asyncio.Event()
        self.running.set()
        self.done_step = 0
        self.in_step = self.stopping = False
        self.skipped_in_row = 0

        prompts = WorkStream(self.client, self.keys.prompts, "rollout", "trainer")
        patience_s = config.run.stall_timeout_s
        self.dispatcher = Dispatcher(
            prompts, ledger, config.trainer.redispatch_after_s, config.trainer.max_attempts, patience_s, tracer
        )
        self.trajectories = WorkStream(self.client, self.keys.trajectories, TRAINER_GROUP, self.run_id)
        vocabulary_size = family.output_head(learner.policy).get_parameter("weight").shape[0]
        self.dead = DeadLetters(self.client, self.keys.dead, self.run_id)
        self.collector = Collector(
            self.trajectories, self.dispatcher, self.ledger, self.run_id, vocabulary_size, self.dead
        )
        self.collector.on_unreadable = self.metrics.unreadable.inc
        self.collector.on_refused = self.metrics.refused_answers.inc
        self.history = History(
            config,
            family,
            learner,
            self.compute,
            ledger,
            self.files,
            self.status,
            self.metrics,
            self.collector.acknowledge_held,
        )
        info = weights_pb2.RunInfo(
            protocol=PROTOCOL,
            run_id=self.run_id,
            run_name=config.run.name,
            student=config.student.path,
            vocabulary_fingerprint=family.vocabulary.fingerprint,
            started_at=time.time(),
        )
        self.store_uri = store_uri(config)
        store = WeightStore(self.store_uri, self.run_id, config.weights.keep)
        policy = partial(self.compute.run, learner.weight_file)
        self.publisher = Publisher(lease, store, info, policy, patience_s, tracer)
        self.publisher.on_full_disk = self.metrics.outage_waits.inc
        self.publisher.on_mended = self._record_mended
        # While a group waits for its answer no step is learnt: the policy is the newest version still.
        self.collector.on_policy_unavailable = self.publisher.mend
        self.statement = Statement(self.client, self.keys, self.status, self.publisher, ledger, teacher)
        conditionings = Conditionings(family, teacher_tokenizer, config.rollout.max_model_len)
        writer = GroupWriter(config, conditionings, self.run_id)
        scorer = GroupScorer(conditionings, teacher, vocabulary_size)
        self.conditionings = conditionings
        refusals = Refusals(self.dead, self.metrics.refused_items, config.data.manifest)
        self.evaluator = Evaluator(writer, self.dispatcher, conditionings, refusals, config.evals.max_new_tokens)
        self.prober = Prober(writer, self.dispatcher, scorer, learner, self.compute, config.trainer.overlap_top_k)
        self.steps = StepRunner(
            config,
            learner.method,
            writer,
            self.dispatcher,
            teacher,
            scorer,
            learner,
            self.compute,
            self.publisher,
            ledger,
            refusals,
            tracer,
        )
        self.metrics.watch(
            lambda: self.status.phase == "training",
            lambda: self.publisher.version,
            lambda: self.dispatcher.unanswered,
            lambda: self.dispatcher.oldest_age_s,
        )

    async def run(self, resume: bool, stop: asyncio.Event) -> None:
        """Run to the end, or until `stop` is set: then a checkpoint is written first.

        Raises:
            UserError: for what the user can put right, such as a teacher with another vocabulary.
        """
        earlier = self.ledger.run_ids
        if resume and self.ledger.newest_step:
            refuse_changes(self.files.folder, self.config, self.items)
        write_begun(self.files.folder, self.config, self.items)
        step = self.done_step = (self.history.resume if resume else self.history.begin)(self.run_id)
        await self.lease.acquire(earlier)
        await self._clear_streams()
        await self.publisher.announce_run()
        await self.publisher.publish(step)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.lease.release)
            background = [
                asyncio.create_task(self.lease.keep()),
                asyncio.create_task(self.collector.run()),
                asyncio.create_task(watch(self.dispatcher, self.publisher, self.config.run.stall_timeout_s)),
                asyncio.create_task(keep_gauges(self.client, self.keys, self.metrics, self.ledger)),
                asyncio.create_task(self.statement.keep()),
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

    async def _stop(self, main: asyncio.Task[None]) -> None:
        """Let the step under way end, if it can, and write a checkpoint."""
        self.status.enter("stopping", "finishing the step")
        log.info("stopping", step=self.done_step)
        self.stopping = True
        if self.in_step:
            await asyncio.wait([main], timeout=STOP_GRACE_S)
        await end_tasks([main])
        await self._checkpoint_if_new()

    async def _checkpoint_if_new(self) -> None:
        # Cut off within a step, the weights may lie between two versions: the last checkpoint stands.
        if not self.steps.learning and self.done_step > self.history.checkpointed_step:
            await self.history.try_checkpoint(self.done_step)

    async def _train_and_evaluate(self, step: int) -> None:
        await self._test_teachers(step)
        teacher = await self._teacher_score()
        self.status.teacher_text = teacher.as_json()["text"]
        base = await self._evaluate_split("base", 0, step)
        train = self._split(self.config.data.train_split, tasks=True)
        order = DataOrder(train, self.config.trainer.batch_prompts, self.config.run.seed)
        await self._prepare(order)
        if self.config.evals.every and step == 0:
            await self._evaluate_dev(0)

        while step < self.config.run.steps:
            if not self.running.is_set():
                self.status.enter("paused")
                await self.running.wait()
            if self.stopping:
                return
            self.status.enter("training")
            step += 1
            self.in_step = True
            self._record(await self.steps.take(step, order.items_of(step)))
            self.in_step, self.done_step = False, step
            last = step == self.config.run.steps
            if self.config.evals.every and (step % self.config.evals.every == 0 or last):
                await self._evaluate_dev(step)
            if last:
                await self.history.last_checkpoint(step)
            elif step % self.config.run.checkpoint_every == 0 or self.history.due:
                await self.history.try_checkpoint(step)

        final = await self._evaluate_split("final", step, step)
        self.status.enter("exporting")
        await self.compute.run(self.learner.assert_frozen)
        await self.compute.run(export_policy, self.family, self.learner.policy, self.files.export)
        await self._sum_up(teacher, base, final)
        await self.publisher.announce_run(finished=True)
        self.status.enter("finished")

    async def _prepare(self, order: DataOrder) -> None:
        """Let the method get ready with the items that the run will train on."""
        seen = {item.id: item for step in range(1, self.config.run.steps + 1) for item in order.items_of(step)}
        self.status.enter("preparing", "the method gets ready", len(seen))
        await self.learner.method.prepare(
            Preparation(
                list(seen.values()), self.conditionings, self.teacher, self.files.teacher_responses, self.status.advance
            )
        )

    def _split(self, split: str, tasks: bool = False) -> list[Item]:
        return [item for item in self.items if item.split == split and (item.kind == "task" or not tasks)]

    async def _test_teachers(self, step: int) -> None:
        self.status.enter("teacher_test", "the teachers are asked the same in several ways")
        items, method = self._split(self.config.data.eval_split, tasks=True), self.learner.method
        longest = self.config.evals.max_new_tokens
        found = await try_teachers(self.teacher, items, self.conditionings, method, longest)
        self.files.append(found.record(step, time.time()))
        self.status.notes += [found.summary(), *(f"teacher {each.pod}: {each.sentence}" for each in found.warnings)]

    async def _teacher_score(self) -> Evaluation:
        items = self._split(self.config.data.eval_split, tasks=True)
        known = self.files.read_evaluation("teacher", self._asked(items, None))
        if known is not None:
            return known
        self.status.enter("teacher_eval", "the teacher answers the held-out text", len(items))
        found = await self.evaluator.teacher(self.teacher, items, self.status.advance)
        self.files.write_evaluation("teacher", found)
        return found

    async def _evaluate_split(self, label: str, step: int, version: int) -> Evaluation:
        """Evaluate the eval split, or read what an earlier life found for the base."""
        items = self._split(self.config.data.eval_split)
        known = self.files.read_evaluation(label, self._asked(items, step))
        if known is None:
            if version > step:
                # Asked now, it would be the trained policy's score under the base's name.
                raise UserError(
                    f"{self.files.folder}: the base was not evaluated on these items, and the policy has taken"
                    f" {version} steps since; bring evals/{label}.json back, or begin the run anew."
                )
            self.status.enter(f"{label}_eval", "held-out speech, text and retention", len(items))
            known = await self.evaluator.student(label, step, version, items, self.status.advance)
            self.files.write_evaluation(label, known)
            self._record_evaluation(step, "test", known)
        else:
            self.status.evals.append(self._evaluation_record(step, "test", known))
        return known

    def _asked(self, items: Sequence[Item], version: int | None) -> dict[str, str]:
        return {item.id: self.evaluator.asked(item, version) for item in items}

    async def _evaluate_dev(self, step: int) -> None:
        limit = self.config.evals.dev_items
        dev = self._split(self.config.data.dev_split)
        items = [i for i in dev if i.kind == "task"][:limit] + [i for i in dev if i.kind == "retention"][:limit]
        if not items:
            return
        self.status.enter("dev_eval", "", len(items))
        evaluation = await self.evaluator.student("dev", step, step, items, self.status.advance)
        self._record_evaluation(step, "dev", evaluation)
        probed = [item for item in items if item.kind == "task"][: self.config.evals.probe_items]
        if probed:
            self.status.enter("probing", "signals on dev items")
            signals = await self.prober.measure(step, probed)
            self.files.append({"kind": "probe", "step": step, "time": time.time(), **signals})

    def _evaluation_record(self, step: int, split: str, evaluation: Evaluation) -> dict[str, Any]:
        return {"kind": "eval", "step": step, "time": time.time(), "split": split, "scores": evaluation.as_json()}

    def _record_evaluation(self, step: int, split: str, evaluation: Evaluation) -> None:
        record = self._evaluation_record(step, split, evaluation)
        self.files.append(record)
        self.status.evals.append(record)
        self.metrics.record_evaluation(record)

    def _record(self, finished: FinishedStep) -> None:
        record = {**finished.record, "wall_s": self.history.wall_s, "tokens_per_s": self._tokens_per_s(finished)}
        self.files.append(record)
        self.status.record_step(record)
        self.metrics.record_step(record, finished.result, self.ledger.accounts)
        self.metrics.record_lag(self.steps.lag_in_flight, self.steps.lag_in_queue)
        self.metrics.record_published(self.publisher.published_bytes)
        self._mind_skipped(finished)

    def _record_mended(self, version: int) -> None:
        self.metrics.mended.inc()
        self.files.event(self.done_step, "mended", f"weight version {version} was damaged or missing: written again")

    def _mind_skipped(self, finished: FinishedStep) -> None:
        """Go on after a step whose loss was not finite, but not for ever."""
        step = int(finished.record["step"])
        if not finished.result.skipped:
            self.skipped_in_row = 0
            return
        self.skipped_in_row += 1
        self.files.event(step, "skipped", "the loss or the gradient was not finite: the weights are as before")
        log.warning("step skipped: loss or gradient not finite", step=step, in_row=self.skipped_in_row)
        if self.skipped_in_row >= self.config.trainer.max_skipped_steps:
            raise UserError(
                f"the loss or the gradient was not finite in {self.skipped_in_row} steps in a row, the last of them"
                f" {step}: the weights of before are in the checkpoint; look at the advantages and importance ratios of"
                " metrics.jsonl, lower optimiser.learning_rate or set objective.advantage_clamp, then resume."
            )

    def _tokens_per_s(self, finished: FinishedStep) -> dict[str, float]:
        busy = self.steps.take_busy_seconds()
        seconds = {**busy, "trainer": finished.record["seconds"]["learn"]}
        tokens = finished.result.tokens
        return {stage: tokens[stage] / spent if spent > 0 else 0.0 for stage, spent in seconds.items()}

    async def _clear_streams(self) -> None:
        """Remove what an earlier life left: its run id is gone, so all of it is stale."""
        await self.client.delete(self.keys.prompts, self.keys.trajectories, self.keys.weights)
        remove_leftovers(self.store_uri)
        await self.dispatcher.prompts.ensure_group()
        await self.trajectories.ensure_group()

    async def _sum_up(self, teacher: Evaluation, base: Evaluation, final: Evaluation) -> None:
        steps = [r for r in self.files.records() if r["kind"] == "step"]
        stages = ("rollout", "teacher", "trainer")
        tokens_per_s = {s: sum(r["tokens_per_s"][s] for r in steps) / max(1, len(steps)) for s in stages}
        named = engines(await read_pods(self.client, self.keys), await self.teacher.describe())
        summary = make_summary(
            self.config,
            self.status,
            self.ledger.accounts,
            teacher,
            base,
            final,
            named,
            tokens_per_s,
            self.history.wall_s,
        )
        self.files.write_summary(summary)

    async def as_status(self) -> dict[str, Any]:
        """The answer of /status."""
        pods = await read_pods(self.client, self.keys)
        return {
            **self.status.as_json(),
            "pods": pods,
            "teachers": await self.teacher.describe(),
            "accounts": self.ledger.accounts.as_json(),
        }
