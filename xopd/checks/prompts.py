"""Does every item of a manifest fit both models? Asked by `xopd check`, before anything is sampled.

For each item that a run uses: both prompts can be written, the student's prompt with its clip leaves all the room that
an answer is promised, so does the teacher's, the targets of supervised methods are there and fit, and the expected
answer can be given at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xopd.config import Config
from xopd.data.items import AudioFile, Item
from xopd.errors import UserError
from xopd.evals.graders.registry import Grader
from xopd.ledger.begun import used_items
from xopd.prompts.conditionings import Conditionings
from xopd.prompts.encoding import TextEncoder
from xopd.prompts.student import StudentPrompts
from xopd.v1 import trajectory_pb2 as pb


@dataclass(frozen=True)
class PromptsChecked:
    """What was found where nothing is wrong."""

    items: int
    longest: int
    """The student's longest prompt, its clip included (tokens)."""
    spelling: int
    """Items that spell a control token; they are encoded as plain text."""


def check_prompts(
    config: Config,
    items: Iterable[Item],
    clip_seconds: Mapping[str, float],
    family: StudentPrompts,
    teacher_tokenizer: Any,
    teacher_context: int | None,
    grader: Grader,
) -> PromptsChecked:
    """Hold every item of the splits in use against the student, the teacher and the grader.

    Args:
        config: the run's.
        items: of the manifest.
        clip_seconds: by item id, lengths of clips as their files tell them; others are taken from the manifest.
        family: the student's.
        teacher_tokenizer: a transformers tokenizer.
        teacher_context: longest prompt plus response that the teacher takes (tokens); None where that is not known.
        grader: by which answers are judged.

    Raises:
        UserError: naming the first item that does not fit, and how many others do not.
    """
    conditionings = Conditionings(family, teacher_tokenizer, config.rollout.max_model_len)
    check = _Check(config, conditionings, teacher_context, grader)
    spelling = (TextEncoder(family.tokenizer).spelling.search, TextEncoder(teacher_tokenizer).spelling.search)
    first: UserError | None = None
    wrong = seen = longest = spelt = 0
    for item in used_items(config, items):
        seen += 1
        known = _with_seconds(item, clip_seconds.get(item.id))
        try:
            longest = max(longest, check.longest(known))
        except UserError as error:
            wrong += 1
            first = first or error
        spelt += any(search(text) for text in _texts(item) for search in spelling)
    if first is not None:
        more = f" {wrong - 1} more of {seen} items do not fit." if wrong > 1 else ""
        raise UserError(f"{first}{more}")
    return PromptsChecked(seen, longest, spelt)


class _Check:
    """One item at a time."""

    def __init__(
        self, config: Config, conditionings: Conditionings, teacher_context: int | None, grader: Grader
    ) -> None:
        self.config = config
        self.grader = grader
        self.conditionings = conditionings
        self.teacher_context = teacher_context
        self.target = config.objective.trained_target

    def longest(self, item: Item) -> int:
        """The item's longest student prompt (tokens). Raises UserError where something does not fit."""
        new = max(self._new_tokens(item))
        self.conditionings.student(item, pb.MODALITY_SPEECH, new)
        if item.kind == "task":
            self.conditionings.student(item, pb.MODALITY_TEXT, new)
            self._check_teacher(item, new)
            if self.target is not None and item.split == self.config.data.train_split:
                target = len(self.conditionings.target(item, self.target))
                for modality in (pb.MODALITY_SPEECH, pb.MODALITY_TEXT):
                    self.conditionings.student(item, modality, target)
        if item.split != self.config.data.train_split and not self.grader.can_be_right(item):
            raise UserError(
                f"item {item.id}: no response can be judged by its answer {item.answer!r} (evals.grader"
                f" {self.grader.name}): {self.grader.expects}; correct it."
            )
        modalities = [pb.MODALITY_SPEECH, *([pb.MODALITY_TEXT] if item.kind == "task" else [])]
        return max(self.conditionings.student_length(item, modality) for modality in modalities)

    def _new_tokens(self, item: Item) -> Iterator[int]:
        data = self.config.data
        if item.split == data.train_split or (item.split == data.dev_split and self.config.evals.probe_items):
            yield self.config.sampling.max_new_tokens
        if item.split != data.train_split or data.train_split in (data.eval_split, data.dev_split):
            yield self.config.evals.max_new_tokens

    def _check_teacher(self, item: Item, new: int) -> None:
        prompt = len(self.conditionings.teacher(item))
        if self.teacher_context is not None and prompt + new > self.teacher_context:
            raise UserError(
                f"item {item.id}: the teacher's prompt has {prompt} tokens; with {new} new ones they are more than the"
                f" {self.teacher_context} that the teacher takes: shorten it, raise teacher.token_budget, or take a"
                " teacher with a longer context."
            )


def _with_seconds(item: Item, seconds: float | None) -> Item:
    if seconds is None or seconds <= 0:
        return item
    audio: AudioFile = item.audio.model_copy(update={"seconds": seconds})
    return item.model_copy(update={"audio": audio})


def _texts(item: Item) -> list[str]:
    return [text for text in (item.text, item.question, item.response, *item.targets.values()) if text]
