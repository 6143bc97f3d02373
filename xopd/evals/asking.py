"""Asking a model: items go in, responses as token ids come out, in the same order. An asker speaks for one policy.

`TeacherAsker` asks the teacher service; the trainer has one that asks its rollout pods. An endpoint with OpenAI's
interface would be one more class with `ask`: it gives text in place of token ids, so `Answer` would get a field for
text, which the runner would take before it decodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from xopd.data.items import Item
from xopd.prompts import UnusablePromptError
from xopd.prompts.conditionings import Conditionings
from xopd.scoring import TeacherClient, UnscorableError
from xopd.v1 import trajectory_pb2 as pb

Progress = Callable[[int, int], None]
"""Called with (done, total)."""
OnRejected = Callable[[Item, UnusablePromptError | UnscorableError], Awaitable[None]]
"""Told of an item that cannot be asked, and why."""


@dataclass(frozen=True)
class Question:
    """One item in one modality."""

    item: Item
    modality: pb.Modality


@dataclass(frozen=True)
class Answer:
    """A greedy response, or why there is none."""

    token_ids: Sequence[int] = ()
    """Of the response, its end of turn included."""
    cut: bool = False
    """Whether it reached the longest length without an end of turn."""
    fault: str = ""
    """Why there is no response; empty where there is one."""


class Asker(Protocol):
    """Asks one policy."""

    async def ask(self, questions: Sequence[Question], progress: Progress) -> list[Answer]:
        """One answer a question, in the same order; a question that cannot be answered has a fault, and no exception.

        Raises:
            UserError: if nothing can be asked, such as where no pod has the policy.
        """


class TeacherAsker:
    """Asks the teacher service: its own greedy responses to text."""

    def __init__(
        self, client: TeacherClient, conditionings: Conditionings, max_new_tokens: int, on_rejected: OnRejected
    ) -> None:
        """Ask through `client`, with prompts of `conditionings`, for `max_new_tokens` at most."""
        self.client = client
        self.conditionings = conditionings
        self.max_new_tokens = max_new_tokens
        self.on_rejected = on_rejected

    async def ask(self, questions: Sequence[Question], progress: Progress) -> list[Answer]:
        """One answer a question, in the same order.

        Raises:
            ValueError: for a question by voice: the teacher only reads.
            TeacherUnreachableError: if no teacher can be had.
        """
        if any(question.modality != pb.MODALITY_TEXT for question in questions):
            raise ValueError("the teacher can be asked by text only")
        return await gather_answers([self._answer(question.item) for question in questions], progress)

    async def _answer(self, item: Item) -> Answer:
        stops = self.conditionings.family.stop_token_ids
        try:
            generated = await self.client.generate(
                self.conditionings.teacher(item), max_new_tokens=self.max_new_tokens, stop_token_ids=stops
            )
        except (UnscorableError, UnusablePromptError) as error:
            await self.on_rejected(item, error)
            return Answer(fault=str(error))
        token_ids = generated.token_ids.tolist()
        return Answer(token_ids, cut=token_ids[-1] not in stops)


async def gather_answers(answers: Iterable[Awaitable[Answer]], progress: Progress) -> list[Answer]:
    """All answers, in order; `progress` is told of each as it comes."""
    waiting = list(answers)
    done = 0

    async def _counted(answer: Awaitable[Answer]) -> Answer:
        nonlocal done
        found = await answer
        done += 1
        progress(done, len(waiting))
        return found

    return list(await asyncio.gather(*map(_counted, waiting)))
