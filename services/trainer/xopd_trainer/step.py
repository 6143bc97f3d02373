"""One training step, top to bottom: write, dispatch, score as answers arrive, learn, book, publish.

written ──▶ dispatched ──▶ last trajectory ──▶ last score ──▶ learnt and booked ──▶ published
              rollout            score             learn           sync

Items whose response is supplied (supervised methods) are not dispatched; the rest of the step is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from xopd.config import Config
from xopd.data import Item
from xopd.errors import UserError
from xopd.ledger import Ledger, TrainedGroup, group_content
from xopd.prompts import UnusablePromptError
from xopd.scoring import TeacherClient, UnscorableError
from xopd.streams.retry import RetryPolicy
from xopd.telemetry import NO_TRACER, Tracer
from xopd.v1 import trajectory_pb2 as pb
from xopd_trainer.batch import ScoredGroup
from xopd_trainer.dispatch.dispatcher import Dispatcher, GroupFailedError
from xopd_trainer.dispatch.groups import GroupWriter
from xopd_trainer.dispatch.rejected import Fault, Rejections, fault_of
from xopd_trainer.dispatch.scored_groups import GroupScorer
from xopd_trainer.learning.handle import LearnerHandle
from xopd_trainer.methods import Response
from xopd_trainer.state.publisher import Publisher
from xopd_trainer.telemetry.step import FinishedStep, StepTelemetry, observed_step

Answer = asyncio.Future[pb.TrajectoryGroup]


class StepRunner:
    """Takes steps. Owns nothing that must survive."""

    def __init__(
        self,
        config: Config,
        writer: GroupWriter,
        dispatcher: Dispatcher,
        teacher: TeacherClient,
        scorer: GroupScorer,
        learner: LearnerHandle,
        publisher: Publisher,
        ledger: Ledger,
        rejections: Rejections,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """Put the parts together."""
        self.config = config
        self.method = learner.method
        self.writer = writer
        self.dispatcher = dispatcher
        self.teacher = teacher
        self.scorer = scorer
        self.learner = learner
        self.publisher = publisher
        self.ledger = ledger
        self.rejections = rejections
        self.retry_policy = RetryPolicy(config.run.stall_timeout_s)
        self.tracer = tracer
        self.learning = False
        """Whether the weights are between two versions. Stays set if a step breaks there."""
        # What the method wants of the teacher's distribution, and at least what the logged overlap takes.
        wanted = self.method.teacher_top_k
        self._top_k = config.trainer.overlap_top_k if wanted == 0 else wanted
        weights = ((pb.MODALITY_TEXT, 1 - config.objective.lambda_), (pb.MODALITY_SPEECH, config.objective.lambda_))
        self._modalities = [modality for modality, weight in weights if weight > 0]

    async def take(self, step: int, items: Sequence[Item]) -> FinishedStep:
        """Take optimiser step `step` on `items`, sampled from policy version `step - 1`.

        Items that cannot be answered are left out and counted.

        Raises:
            ScoringError: if the teacher cannot be reached, after all attempts.
            UserError: if no item of the step is left, or Redis or the weight store is away for too long.
        """
        about = {
            "xopd.run_id": self.writer.run_id,
            "xopd.step": step,
            "xopd.policy_version": step - 1,
            "xopd.method": self.method.name,
            "xopd.items": len(items),
        }
        with observed_step(self.tracer, self.teacher, lambda: self.publisher.version, step, about) as seen:
            supplied = await self._supplied(step, items)
            groups = await self._write(step, [i for i in items if i.id in supplied and supplied[i.id] is None])

            with seen.dispatching(groups):
                answers = await self.dispatcher.submit(groups)
            batch = await self._score(step, items, groups, answers, supplied, seen)
            batch = await self._with_clips(batch)
            if not batch:
                raise UserError(
                    f"no item of step {step} could be trained on; the last reason was: {self.rejections.newest};"
                    " see the dead letters and the pods' logs, put it right, then resume."
                )

            trained = [_as_trained(group) for group in batch]
            self.ledger.assert_new(step, trained)
            policy_lag = max(t.policy_lag for group in batch for t in group.trajectories)
            with seen.learning(batch):
                self.learning = True
                result = await self.learner.step(step, batch)
                await self._book(step, trained, policy_lag, result.skipped)

            await self.publisher.publish(step)
            self.learning = False
            return seen.finished(result, policy_lag)

    async def _supplied(self, step: int, items: Sequence[Item]) -> dict[str, Response | None]:
        """The method's own response to each item, by item id; None where the policy samples. Unusable items lack."""
        supplied: dict[str, Response | None] = {}
        for item in items:
            try:
                supplied[item.id] = self.method.response(step, item)
            except UnusablePromptError as error:
                for modality in self._modalities:
                    await self.rejections.note(self.writer.training_id(step, item, modality), "prompt", str(error))
        return supplied

    async def _write(self, step: int, items: Sequence[Item]) -> list[pb.PromptGroup]:
        """The groups that the policy is to answer. A prompt that does not fit is never dispatched."""
        groups = []
        for item in items:
            for modality in self._modalities:
                try:
                    groups.append(self.writer.training(step, item, modality, step - 1))
                except UnusablePromptError as error:
                    await self.rejections.note(self.writer.training_id(step, item, modality), "prompt", str(error))
        return groups

    async def _score(
        self,
        step: int,
        items: Sequence[Item],
        groups: Sequence[pb.PromptGroup],
        answers: Mapping[str, Answer],
        supplied: Mapping[str, Response | None],
        seen: StepTelemetry,
    ) -> list[ScoredGroup]:
        """The groups with the teacher's scores, each scored as it arrives; what cannot be trained on is left out."""
        by_id = {item.id: item for item in items}
        scored = await asyncio.gather(
            *(self._sampled(step, by_id[group.item_id], group, answers[group.group_id], seen) for group in groups),
            *(
                self._read_supplied(step, by_id[item_id], modality, response, seen)
                for item_id, response in supplied.items()
                if response is not None
                for modality in self._modalities
            ),
        )
        seen.all_scored()
        return [group for group in scored if group is not None]

    async def _sampled(
        self, step: int, item: Item, group: pb.PromptGroup, answer: Answer, seen: StepTelemetry
    ) -> ScoredGroup | None:
        """Wait for one group's answer and have the teacher read it, given the TEXT prompt in either modality."""
        with seen.group(group.group_id) as span:
            try:
                sampled = await seen.arrival(answer, span)
                with seen.scoring(span):
                    return await self.scorer.sampled(item, group, sampled, step - 1, self._top_k or 0)
            except GroupFailedError as error:
                self.rejections.newest = str(error)  # counted and noted by the pod that said so
            except (UnscorableError, UnusablePromptError) as error:
                await self._leave_out(group.group_id, fault_of(error), str(error), in_ledger=True)
        return None

    async def _read_supplied(
        self, step: int, item: Item, modality: pb.Modality, response: Response, seen: StepTelemetry
    ) -> ScoredGroup | None:
        """One supplied response, read by the teacher where the method asks it."""
        group_id = self.writer.training_id(step, item, modality)
        try:
            self.writer.assert_fits(item, modality)
            with seen.scoring():
                return await self.scorer.supplied(item, modality, group_id, response, self._top_k)
        except (UnscorableError, UnusablePromptError) as error:
            await self.rejections.note(group_id, fault_of(error), str(error))
            return None

    async def _with_clips(self, batch: Sequence[ScoredGroup]) -> list[ScoredGroup]:
        """The groups whose clips can be read here, too: the learner needs them."""
        unusable = await self.learner.unusable_clips(batch)
        for group in batch:
            if group.group_id in unusable:
                await self._leave_out(group.group_id, "clip", str(unusable[group.group_id]), group.sampled)
        return [group for group in batch if group.group_id not in unusable]

    async def _leave_out(self, group_id: str, fault: Fault, reason: str, in_ledger: bool) -> None:
        """Leave an answered group out of the step; a supplied response is in the ledger only once it is trained."""
        await self.rejections.note(group_id, fault, reason)
        if in_ledger:
            await self.retry_policy.write_ledger(lambda: self.ledger.dead_lettered(group_id, reason))

    async def _book(self, step: int, groups: Sequence[TrainedGroup], lag: int, skipped: bool) -> None:
        """Have the ledger say what became of the groups."""

        def _write() -> None:
            if skipped:
                self.ledger.skipped(step, groups, f"the loss or the gradient of step {step} was not finite")
            else:
                self.ledger.trained(step, groups, lag)

        await self.retry_policy.write_ledger(_write)


def _as_trained(group: ScoredGroup) -> TrainedGroup:
    content = group_content(group.group_id, [(t.token_ids, t.behaviour_logprobs) for t in group.trajectories])
    return TrainedGroup(group.group_id, content, len(group.trajectories), group.sampled)
