"""The self-test of the teachers with a run's own prompts, before anything is learnt from their scores."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import structlog

from xopd.data import Item
from xopd.prompts import UnusablePromptError
from xopd.prompts.conditionings import Conditionings
from xopd.scoring import TeacherClient
from xopd.scoring.self_test import SelfTest, Trial, self_test
from xopd_trainer.methods import Method

log = structlog.get_logger(__name__)
TESTED_ITEMS = 16
"""Items whose prompts the teachers may be asked; the self-test takes a few that leave room for an answer."""


async def try_teachers(
    client: TeacherClient, items: Sequence[Item], conditionings: Conditionings, method: Method, max_new_tokens: int
) -> SelfTest:
    """Ask every teacher the same in several ways, and log what is found.

    Args:
        client: of the teachers.
        items: tasks, whose text prompts are used.
        conditionings: how they are written.
        method: how many of the teacher's tokens it wants.
        max_new_tokens: of an answer in an evaluation.

    Raises:
        UserError: if a teacher's scores cannot be trained on.
    """
    trial = Trial(
        list(itertools.islice(_prompts(items, conditionings), TESTED_ITEMS)),
        conditionings.family.stop_token_ids,
        method.teacher_top_k or 0,
        max_new_tokens,
        # A thinking marker may be a special token: shown, it can be found.
        partial(conditionings.teacher_tokenizer.decode, skip_special_tokens=False),
    )
    found = await self_test(client, trial)
    log.info("teachers tested", summary=found.summary())
    for warning in found.warnings:
        log.warning("teacher", pod=warning.pod, check=warning.check, warning=warning.sentence)
    return found


def _prompts(items: Sequence[Item], conditionings: Conditionings) -> Iterator[tuple[int, ...]]:
    for item in items:
        with contextlib.suppress(UnusablePromptError):  # the evaluation of the same item tells of it
            yield conditionings.teacher(item)
