"""Held-out evaluation on the rollout pods: greedy answers in speech and text, and the retention probe by speech.

The teacher's own score is that of its greedy answers to the text, asked of the teacher service. An answer that was cut
off at the longest length is not right, whatever it holds so far: its share stands beside each score.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from xopd.data import Item
from xopd.errors import UserError
from xopd.evals.grading import is_correct
from xopd.evals.verdicts import Evaluation, Verdict
from xopd.ledger.begun import item_digest
from xopd.prompts import UnusablePromptError
from xopd.prompts.conditionings import Conditionings
from xopd.scoring import TeacherClient, UnscorableError
from xopd.v1 import trajectory_pb2 as pb
from xopd_trainer.dispatch.dispatcher import Dispatcher, GroupFailedError, PolicyMissingError
from xopd_trainer.dispatch.groups import GroupWriter
from xopd_trainer.dispatch.rejected import Refusals, fault_of

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


class Evaluator:
    """Asks and grades."""

    def __init__(
        self,
        writer: GroupWriter,
        dispatcher: Dispatcher,
        conditionings: Conditionings,
        refusals: Refusals,
        max_new_tokens: int,
    ) -> None:
        """Ask through `dispatcher`, with groups of `writer`; tell `refusals` of items that cannot be asked.

        Answers have `max_new_tokens` at most.
        """
        self.max_new_tokens = max_new_tokens
        self.writer = writer
        self.refusals = refusals
        self.dispatcher = dispatcher
        self.conditionings = conditionings

    async def student(
        self, label: str, step: int, version: int, items: Sequence[Item], progress: Progress
    ) -> Evaluation:
        """Evaluate policy `version` on `items`: tasks in both modalities, retention items by speech.

        Raises:
            UserError: if the pods cannot have that version, or no item of a part is answered: a score would tell of
                the pods or the data, not of the policy.
        """
        parts = [("speech" if item.kind == "task" else "retention", item, pb.MODALITY_SPEECH) for item in items]
        parts += [("text", item, pb.MODALITY_TEXT) for item in items if item.kind == "task"]
        asked: list[tuple[str, Item, pb.PromptGroup | str]] = []
        for part, item, modality in parts:
            try:
                asked.append((part, item, self.writer.evaluation(label, step, item, modality, version)))
            except UnusablePromptError as error:
                asked.append((part, item, str(error)))
                await self.refusals.note(item.id, "prompt", str(error))
        futures = await self.dispatcher.submit([group for _, _, group in asked if isinstance(group, pb.PromptGroup)])
        done = 0

        async def _grade(item: Item, group: pb.PromptGroup | str) -> Verdict:
            nonlocal done
            try:
                if isinstance(group, pb.PromptGroup):
                    trajectory = (await futures[group.group_id]).trajectories[0]
                    cut = trajectory.finish_reason == pb.FINISH_REASON_LENGTH
                    verdict = self._graded(item, version, trajectory.token_ids, cut)
                else:
                    verdict = self._unanswered(item, version, group)
            except PolicyMissingError as error:
                raise UserError(
                    f"the {label} evaluation cannot go on: {error}; see the pods' logs, put it right, then resume."
                ) from None
            except GroupFailedError as error:
                verdict = self._unanswered(item, version, str(error))  # counted and noted by the pod that said so
            done += 1
            progress(done, len(asked))
            return verdict

        graded = await asyncio.gather(*(_grade(item, group) for _, item, group in asked))
        verdicts: dict[str, list[Verdict]] = {"speech": [], "text": [], "retention": []}
        for (part, _, _), verdict in zip(asked, graded, strict=True):
            verdicts[part].append(verdict)
        for part, found in verdicts.items():
            _assert_answered(f"the {label} evaluation of {part}", found)
        return Evaluation(verdicts)

    async def teacher(self, client: TeacherClient, items: Sequence[Item], progress: Progress) -> Evaluation:
        """The teacher's greedy answers to the text of the tasks among `items`.

        Raises:
            UserError: if it answers none of them.
        """
        stops = self.conditionings.family.stop_token_ids
        tasks = [item for item in items if item.kind == "task"]
        done = 0

        async def _ask(item: Item) -> Verdict:
            nonlocal done
            try:
                generated = await client.generate(
                    self.conditionings.teacher(item), max_new_tokens=self.max_new_tokens, stop_token_ids=stops
                )
                token_ids = generated.token_ids.tolist()
                verdict = self._graded(item, None, token_ids, token_ids[-1] not in stops)
            except (UnscorableError, UnusablePromptError) as error:
                await self.refusals.note(item.id, fault_of(error), str(error))
                verdict = self._unanswered(item, None, str(error))
            done += 1
            progress(done, len(tasks))
            return verdict

        verdicts = list(await asyncio.gather(*(_ask(item) for item in tasks)))
        _assert_answered("the teacher's evaluation", verdicts)
        return Evaluation({"text": verdicts})

    def asked(self, item: Item, version: int | None) -> str:
        """A digest of an item, of how it is asked, and of the policy version that answers; None is the teacher."""
        return item_digest(item, self.max_new_tokens, version)

    def _graded(self, item: Item, version: int | None, token_ids: Sequence[int], cut: bool) -> Verdict:
        response = self.conditionings.text_of(token_ids)
        correct = not cut and is_correct(response, item.answer)
        return Verdict(item.id, response, correct, cut, asked=self.asked(item, version))

    def _unanswered(self, item: Item, version: int | None, fault: str) -> Verdict:
        return Verdict(item.id, "", False, fault=fault, asked=self.asked(item, version))


def _assert_answered(what: str, verdicts: Sequence[Verdict]) -> None:
    if verdicts and all(verdict.fault for verdict in verdicts):
        raise UserError(
            f"{what} has no score: none of its {len(verdicts)} items was answered; the last reason was:"
            f" {verdicts[-1].fault.rstrip('.')}; put it right, then resume."
        )
