"""Held-out evaluation in a run: the student asked on the rollout pods, the teacher asked of its service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from xopd.data import Item
from xopd.errors import UserError
from xopd.evals.asking import Answer, Progress, Question, TeacherAsker, gather_answers
from xopd.evals.graders.exact import FinalAnswer
from xopd.evals.graders.registry import Grader
from xopd.evals.parts import PARTS, TEXT_PARTS
from xopd.evals.runner import evaluate
from xopd.evals.verdicts import Evaluation
from xopd.ledger.begun import item_digest
from xopd.prompts import UnusablePromptError
from xopd.prompts.conditionings import Conditionings
from xopd.scoring import TeacherClient, UnscorableError
from xopd.v1 import trajectory_pb2 as pb
from xopd_trainer.dispatch.dispatcher import Dispatcher, GroupFailedError, PolicyMissingError
from xopd_trainer.dispatch.groups import GroupWriter
from xopd_trainer.dispatch.rejected import Rejections, fault_of


class PodAsker:
    """Asks one policy version, greedily, through the dispatcher and the rollout pods."""

    def __init__(
        self, writer: GroupWriter, dispatcher: Dispatcher, rejections: Rejections, label: str, step: int, version: int
    ) -> None:
        """Ask policy `version`; `label` and `step` tell the groups of one evaluation from those of another."""
        self.writer = writer
        self.dispatcher = dispatcher
        self.rejections = rejections
        self.label = label
        self.step = step
        self.version = version

    async def ask(self, questions: Sequence[Question], progress: Progress) -> list[Answer]:
        """One answer a question, in the same order. Raises UserError if the pods cannot have the version."""
        written = [await self._write(question) for question in questions]
        futures = await self.dispatcher.submit([group for group in written if isinstance(group, pb.PromptGroup)])
        return await gather_answers([self._answer(group, futures) for group in written], progress)

    async def _write(self, question: Question) -> pb.PromptGroup | Answer:
        item = question.item
        try:
            return self.writer.evaluation(self.label, self.step, item, question.modality, self.version)
        except UnusablePromptError as error:
            await self.rejections.note(item.id, "prompt", str(error))
            return Answer(fault=str(error))

    async def _answer(
        self, written: pb.PromptGroup | Answer, futures: Mapping[str, asyncio.Future[pb.TrajectoryGroup]]
    ) -> Answer:
        if isinstance(written, Answer):
            return written
        try:
            trajectory = (await futures[written.group_id]).trajectories[0]
        except PolicyMissingError as error:
            raise UserError(
                f"the {self.label} evaluation cannot go on: {error}; see the pods' logs, put it right, then resume."
            ) from None
        except GroupFailedError as error:
            return Answer(fault=str(error))  # counted and noted by the pod that said so
        return Answer(trajectory.token_ids, cut=trajectory.finish_reason == pb.FINISH_REASON_LENGTH)


class Evaluator:
    """Evaluates the student and the teacher of one run, by one grader."""

    def __init__(
        self,
        writer: GroupWriter,
        dispatcher: Dispatcher,
        conditionings: Conditionings,
        rejections: Rejections,
        max_new_tokens: int,
        grader: Grader,
    ) -> None:
        """Ask through `dispatcher`, with groups of `writer`; tell `rejections` of items that cannot be asked.

        Answers have `max_new_tokens` at most; `grader` says which are right.
        """
        self.writer = writer
        self.dispatcher = dispatcher
        self.conditionings = conditionings
        self.rejections = rejections
        self.max_new_tokens = max_new_tokens
        self.grader = grader

    async def student(
        self, label: str, step: int, version: int, items: Sequence[Item], progress: Progress
    ) -> Evaluation:
        """Evaluate policy `version` on `items`, in every part.

        Raises:
            UserError: if the pods cannot have that version, or no item of a part is answered.
        """
        return await evaluate(
            f"the {label} evaluation",
            items,
            PARTS,
            PodAsker(self.writer, self.dispatcher, self.rejections, label, step, version),
            self.grader,
            self.conditionings.text_of,
            lambda item: self.asked(item, version),
            progress,
        )

    async def teacher(self, client: TeacherClient, items: Sequence[Item], progress: Progress) -> Evaluation:
        """The teacher's greedy answers to the text of the tasks among `items`.

        Raises:
            UserError: if it answers none of them.
        """
        return await evaluate(
            "the teacher's evaluation",
            items,
            TEXT_PARTS,
            TeacherAsker(client, self.conditionings, self.max_new_tokens, self._note_rejected),
            self.grader,
            self.conditionings.text_of,
            lambda item: self.asked(item, None),
            progress,
        )

    def asked(self, item: Item, version: int | None) -> str:
        """A digest of an item, of how it is asked and graded, and of the version that answers; None is the teacher."""
        # Evaluations from before graders had names are this one's.
        graded = () if self.grader.name == FinalAnswer.name else (self.grader.name,)
        return item_digest(item, self.max_new_tokens, version, *graded)

    async def _note_rejected(self, item: Item, error: UnusablePromptError | UnscorableError) -> None:
        await self.rejections.note(item.id, fault_of(error), str(error))
