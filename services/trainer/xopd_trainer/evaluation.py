"""Held-out evaluation on the rollout pods: greedy answers in speech and text, and the retention probe by speech.

The teacher's own score is that of its greedy answers to the text, asked of the teacher service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xopd.data import Item
from xopd.errors import UserError
from xopd.evals.grading import is_correct
from xopd.evals.intervals import Accuracy, accuracy_of
from xopd.scoring import TeacherClient, UnscorableError
from xopd.v1 import trajectory_pb2 as pb
from xopd_trainer.conditionings import Conditionings, PromptTooLongError
from xopd_trainer.dispatcher import Dispatcher, GroupFailedError, PolicyMissingError
from xopd_trainer.groups import GroupWriter
from xopd_trainer.refusals import Refusals

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class Verdict:
    """One graded answer."""

    item_id: str
    response: str
    correct: bool


@dataclass(frozen=True)
class Evaluation:
    """Graded answers by what was asked: `speech`, `text` and `retention`. Items that failed count as wrong."""

    verdicts: dict[str, list[Verdict]]

    def scores(self) -> dict[str, Accuracy]:
        """Accuracy of each part that has items."""
        return {part: accuracy_of([v.correct for v in vs]) for part, vs in self.verdicts.items() if vs}

    def as_json(self) -> dict[str, Any]:
        """The scores, for records."""
        return {part: score.as_json() for part, score in self.scores().items()}


class Evaluator:
    """Asks and grades."""

    def __init__(
        self, writer: GroupWriter, dispatcher: Dispatcher, conditionings: Conditionings, refusals: Refusals
    ) -> None:
        """Ask through `dispatcher`, with groups of `writer`; tell `refusals` of items that cannot be asked."""
        self.writer = writer
        self.refusals = refusals
        self.dispatcher = dispatcher
        self.conditionings = conditionings

    async def student(
        self, label: str, step: int, version: int, items: Sequence[Item], progress: Progress
    ) -> Evaluation:
        """Evaluate policy `version` on `items`: tasks in both modalities, retention items by speech.

        Raises:
            UserError: if the pods cannot have that version: a score would tell of them, not of the policy.
        """
        parts = [("speech" if item.kind == "task" else "retention", item, pb.MODALITY_SPEECH) for item in items]
        parts += [("text", item, pb.MODALITY_TEXT) for item in items if item.kind == "task"]
        asked: list[tuple[str, Item, pb.PromptGroup | None]] = []
        for part, item, modality in parts:
            try:
                asked.append((part, item, self.writer.evaluation(label, step, item, modality, version)))
            except PromptTooLongError as error:
                asked.append((part, item, None))
                await self.refusals.note(item.id, "prompt", str(error))
        futures = await self.dispatcher.submit([group for _, _, group in asked if group is not None])
        done = 0

        async def _grade(item: Item, group: pb.PromptGroup | None) -> Verdict:
            nonlocal done
            response = ""
            try:
                if group is not None:
                    answer = await futures[group.group_id]
                    response = self.conditionings.text_of(answer.trajectories[0].token_ids)
            except PolicyMissingError as error:
                raise UserError(
                    f"the {label} evaluation cannot go on: {error}; see the pods' logs, put it right, then resume."
                ) from None
            except GroupFailedError:
                pass  # counted and noted by the pod that said so: the item counts as wrong
            done += 1
            progress(done, len(asked))
            return Verdict(item.id, response, is_correct(response, item.answer))

        graded = await asyncio.gather(*(_grade(item, group) for _, item, group in asked))
        verdicts: dict[str, list[Verdict]] = {"speech": [], "text": [], "retention": []}
        for (part, _, _), verdict in zip(asked, graded, strict=True):
            verdicts[part].append(verdict)
        return Evaluation(verdicts)

    async def teacher(
        self, client: TeacherClient, items: Sequence[Item], max_new_tokens: int, progress: Progress
    ) -> list[Verdict]:
        """The teacher's greedy answers to the text of the tasks among `items`."""
        tasks = [item for item in items if item.kind == "task"]
        done = 0

        async def _ask(item: Item) -> Verdict:
            nonlocal done
            response = ""
            try:
                generated = await client.generate(
                    self.conditionings.teacher(item),
                    max_new_tokens=max_new_tokens,
                    stop_token_ids=self.conditionings.family.stop_token_ids,
                )
                response = self.conditionings.text_of(generated.token_ids.tolist())
            except UnscorableError as error:
                await self.refusals.note(item.id, "teacher", str(error))
            done += 1
            progress(done, len(tasks))
            return Verdict(item.id, response, is_correct(response, item.answer))

        return list(await asyncio.gather(*(_ask(item) for item in tasks)))
