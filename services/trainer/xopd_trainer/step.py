"""One training step, top to bottom: dispatch, sample, score as answers arrive, learn, publish.

dispatched ──▶ last trajectory ──▶ last score ──▶ learnt ──▶ published
  rollout            score            learn        sync

Items whose response is brought along (supervised methods) are not dispatched; the rest of the step is the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Span, use_span

from xopd.config import Config
from xopd.data import Item
from xopd.errors import UserError
from xopd.ledger import Ledger, TrainedGroup, group_content
from xopd.prompts import UnusablePromptError
from xopd.scoring import TeacherClient, UnscorableError
from xopd.service.compute_thread import ComputeThread
from xopd.streams.retry import write_down
from xopd.telemetry import NO_TRACER, Tracer, child_span, failed
from xopd.telemetry.clock import ActivityClock
from xopd.v1 import trajectory_pb2 as pb
from xopd_trainer.batch import ScoredGroup
from xopd_trainer.dispatch.dispatcher import Dispatcher, GroupFailedError
from xopd_trainer.dispatch.groups import GroupWriter
from xopd_trainer.dispatch.rejected import Fault, Refusals, fault_of, unusable_clips
from xopd_trainer.dispatch.scored_groups import GroupScorer
from xopd_trainer.learning.learner import Learner, StepResult
from xopd_trainer.methods import Method, Response
from xopd_trainer.state.publisher import Publisher
from xopd_trainer.telemetry.step_spans import note_answer, note_step, start_group
from xopd_trainer.telemetry.transport import TransportTimes


@dataclass(frozen=True)
class FinishedStep:
    """A step's result and its record for metrics.jsonl (without `wall_s`)."""

    result: StepResult
    record: dict[str, Any]


class StepRunner:
    """Takes steps. Owns nothing that must survive."""

    def __init__(
        self,
        config: Config,
        method: Method,
        writer: GroupWriter,
        dispatcher: Dispatcher,
        teacher: TeacherClient,
        scorer: GroupScorer,
        learner: Learner,
        compute: ComputeThread,
        publisher: Publisher,
        ledger: Ledger,
        refusals: Refusals,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """Put the parts together."""
        self.tracer = tracer
        self.config = config
        self.method = method
        self.writer = writer
        self.dispatcher = dispatcher
        self.teacher = teacher
        self.scorer = scorer
        self.learner = learner
        self.compute = compute
        self.publisher = publisher
        self.ledger = ledger
        self.refusals = refusals
        self.learning = False
        """Whether the weights are between two versions. Stays set if a step breaks there."""
        self.clock = ActivityClock("rollout", "teacher")
        self._busy_before = {"rollout": 0.0, "teacher": 0.0}
        self.lag_in_flight = self.lag_in_queue = 0
        """Largest policy lags of the newest step (versions): before the answer came, and from then to the step."""
        self._last_answer_at = 0.0
        self._transport = TransportTimes(teacher)

    def take_busy_seconds(self) -> dict[str, float]:
        """Seconds in which a rollout, and a score, was under way since this was last asked."""
        now = {stage: self.clock.seconds(stage) for stage in self._busy_before}
        spent = {stage: seconds - self._busy_before[stage] for stage, seconds in now.items()}
        self._busy_before = now
        return spent

    async def take(self, step: int, items: Sequence[Item]) -> FinishedStep:
        """Take optimiser step `step` on `items`, sampled from policy version `step - 1`.

        Items that cannot be answered are left out and counted as given up.

        Raises:
            ScoringError: if the teacher cannot be reached, after all attempts.
            UserError: if no item of the step is left, or Redis or the weight store is away for too long.
        """
        about: dict[str, Any] = {
            "xopd.run_id": self.writer.run_id,
            "xopd.step": step,
            "xopd.policy_version": step - 1,
            "xopd.method": self.method.name,
            "xopd.items": len(items),
        }
        # The root of the trace, whatever is current.
        with self.tracer.start_as_current_span("step", Context(), attributes=about, record_exception=False) as span:
            finished = await self._take(step, items)
            note_step(span, finished.result)
            return finished

    async def _take(self, step: int, items: Sequence[Item]) -> FinishedStep:
        began = time.monotonic()
        by_id = {item.id: item for item in items}
        lambda_ = self.config.objective.lambda_
        modalities = [m for m, weight in ((pb.MODALITY_TEXT, 1 - lambda_), (pb.MODALITY_SPEECH, lambda_)) if weight > 0]
        supplied = await self._supplied(step, items, modalities)
        written = [
            await self._written(step, item, modality)
            for item in items
            for modality in modalities
            if item.id in supplied and supplied[item.id] is None
        ]
        groups = [group for group in written if group is not None]
        spans = {group.group_id: start_group(self.tracer, group) for group in groups}

        self._last_answer_at = began
        self.lag_in_flight = self.lag_in_queue = 0
        self._transport = TransportTimes(self.teacher)
        with self.clock.counting("rollout"), child_span(self.tracer, "dispatch", {"xopd.groups": len(groups)}):
            futures = await self.dispatcher.submit(groups)
        scored = await asyncio.gather(
            *(
                self._sampled(step, by_id[group.item_id], group, futures[group.group_id], spans[group.group_id])
                for group in groups
            ),
            *(
                self._brought(step, by_id[item_id], modality, response)
                for item_id, response in supplied.items()
                for modality in modalities
            ),
        )
        batch = [group for group in scored if group is not None]
        rollout_s, scored_at = self._last_answer_at - began, time.monotonic()
        score_s = scored_at - self._last_answer_at

        batch = await self._with_clips(batch)
        if not batch:
            raise UserError(
                f"no item of step {step} could be trained on; the last reason was: {self.refusals.newest};"
                " see the dead letters and the pods' logs, put it right, then resume."
            )
        trained = [_as_trained(group) for group in batch]
        self.ledger.assert_new(step, trained)
        lag = max(t.policy_lag for group in batch for t in group.trajectories)
        self.learning = True
        with child_span(self.tracer, "learn", {"xopd.groups": len(batch)}):
            result = await self.compute.run(self.learner.step, step, batch)
        patience_s = self.config.run.stall_timeout_s
        await write_down(patience_s, lambda: self._book(step, trained, lag, result.skipped))
        learn_s = time.monotonic() - scored_at
        await self.publisher.publish(step)
        self.learning = False
        sync_s = time.monotonic() - scored_at - learn_s

        seconds = {"rollout": rollout_s, "score": score_s, "learn": learn_s, "sync": sync_s}
        record = self._record(step, result, lag, seconds, time.monotonic() - began)
        return FinishedStep(result, record)

    def _book(self, step: int, groups: Sequence[TrainedGroup], lag: int, skipped: bool) -> None:
        if skipped:
            self.ledger.skipped(step, groups, f"the loss or the gradient of step {step} was not finite")
        else:
            self.ledger.trained(step, groups, lag)

    async def _supplied(
        self, step: int, items: Sequence[Item], modalities: Sequence[pb.Modality]
    ) -> dict[str, Response | None]:
        """The method's own response to each item, by item id; None where the policy samples. Unusable items lack."""
        supplied: dict[str, Response | None] = {}
        for item in items:
            try:
                supplied[item.id] = self.method.response(step, item)
            except UnusablePromptError as error:
                for modality in modalities:
                    await self.refusals.note(self.writer.training_id(step, item, modality), "prompt", str(error))
        return supplied

    async def _written(self, step: int, item: Item, modality: pb.Modality) -> pb.PromptGroup | None:
        """The group of an item, or None where its prompt does not fit: then it is never dispatched."""
        try:
            return self.writer.training(step, item, modality, step - 1)
        except UnusablePromptError as error:
            await self.refusals.note(self.writer.training_id(step, item, modality), "prompt", str(error))
            return None

    async def _with_clips(self, batch: Sequence[ScoredGroup]) -> list[ScoredGroup]:
        """The groups whose clips can be read here, too: the learner needs them."""
        unusable = await self.compute.run(unusable_clips, self.learner.features, batch)
        for group in batch:
            if group.group_id in unusable:
                await self._give_up(group.group_id, "clip", str(unusable[group.group_id]), group.sampled)
        return [group for group in batch if group.group_id not in unusable]

    async def _give_up(self, group_id: str, fault: Fault, reason: str, in_ledger: bool) -> None:
        """Leave an answered group out of the step; what was brought along is in the ledger only once it is trained."""
        await self.refusals.note(group_id, fault, reason)
        if in_ledger:
            await write_down(self.config.run.stall_timeout_s, lambda: self.ledger.buried(group_id, reason))

    async def _sampled(
        self, step: int, item: Item, group: pb.PromptGroup, future: asyncio.Future[pb.TrajectoryGroup], span: Span
    ) -> ScoredGroup | None:
        """Wait for one group's answer and have the teacher read it, given the TEXT prompt in either modality."""
        with use_span(span, end_on_exit=True, record_exception=False):
            try:
                with self.clock.counting("rollout"):
                    answer = await future
                self._transport.arrived(answer)
                self._note_lag(step, answer)
                note_answer(self.tracer, span, answer)
            except GroupFailedError as error:
                failed(span, str(error))
                self.refusals.newest = str(error)  # counted and noted by the pod that said so
                return None
            finally:
                self._last_answer_at = max(self._last_answer_at, time.monotonic())
            try:
                with self.clock.counting("teacher"), child_span(self.tracer, "score"):
                    return await self.scorer.sampled(item, group, answer, step - 1, self._top_k or 0)
            except (UnscorableError, UnusablePromptError) as error:
                failed(span, str(error))
                await self._give_up(group.group_id, fault_of(error), str(error), in_ledger=True)
                return None

    async def _brought(
        self, step: int, item: Item, modality: pb.Modality, response: Response | None
    ) -> ScoredGroup | None:
        if response is None:
            return None
        group_id = self.writer.training_id(step, item, modality)
        try:
            self.writer.assert_fits(item, modality)
            with self.clock.counting("teacher"):
                return await self.scorer.brought(item, modality, group_id, response, self._top_k)
        except (UnscorableError, UnusablePromptError) as error:
            await self.refusals.note(group_id, fault_of(error), str(error))
            return None

    def _note_lag(self, step: int, answer: pb.TrajectoryGroup) -> None:
        """Split the answer's lag where it arrives, into what the pod brought along and what is added here."""
        newest = self.publisher.version
        oldest = min(version for t in answer.trajectories for version in t.policy_versions)
        self.lag_in_flight = max(self.lag_in_flight, newest - oldest)
        self.lag_in_queue = max(self.lag_in_queue, step - 1 - newest)

    @property
    def _top_k(self) -> int | None:
        """What the teacher is asked for: as much as the method wants, and at least what the logged overlap takes."""
        wanted = self.method.teacher_top_k
        return self.config.trainer.overlap_top_k if wanted == 0 else wanted

    def _record(
        self, step: int, result: StepResult, lag: int, seconds: dict[str, float], total: float
    ) -> dict[str, Any]:
        return {
            "kind": "step",
            "step": step,
            "time": time.time(),
            "loss": result.loss,
            "loss_in": result.loss_in,
            "loss_cross": result.loss_cross,
            "learning_rate": result.learning_rate,
            "grad_norm": result.grad_norm,
            "skipped": result.skipped,
            "policy_version": step,
            "policy_lag_max": lag,
            "text": result.signals["text"].summary() if "text" in result.signals else None,
            "speech": result.signals["speech"].summary() if "speech" in result.signals else None,
            "transport": self._transport.summary(),
            "seconds": {**seconds, "wait": max(0.0, total - sum(seconds.values())), "total": total},
        }


def _as_trained(group: ScoredGroup) -> TrainedGroup:
    content = group_content(group.group_id, [(t.token_ids, t.behaviour_logprobs) for t in group.trajectories])
    return TrainedGroup(group.group_id, content, len(group.trajectories), group.sampled)
