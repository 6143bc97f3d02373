"""Both conditionings of every item: the student's text or speech prompt, and the teacher's text prompt.

Student and teacher write their prompts by their own templates, so the prompts differ in length; the response that
follows is the same array of token ids in both. Each prompt is rendered once and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from xopd.data import Item
from xopd.errors import UserError
from xopd.families import ModelFamily
from xopd.v1 import trajectory_pb2 as pb


class PromptTooLongError(UserError):
    """An item whose prompt leaves no room for an answer."""


class Conditionings:
    """Renders the prompts of items."""

    def __init__(self, family: ModelFamily, teacher_tokenizer: Any, max_prompt_tokens: int) -> None:
        """Render student prompts with `family` and teacher prompts with the teacher's own tokenizer.

        `max_prompt_tokens` bounds the student's prompt, audio not counted.
        """
        self.family = family
        self.teacher_tokenizer = teacher_tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self._student = lru_cache(maxsize=65536)(self._render_student)
        self._teacher = lru_cache(maxsize=65536)(self._render_teacher)

    def student(self, item: Item, modality: pb.Modality) -> tuple[int, ...]:
        """Token ids of x_m for the student; a speech prompt holds one audio placeholder.

        Raises:
            PromptTooLongError: if the prompt leaves no room for an answer.
        """
        if modality == pb.MODALITY_SPEECH:
            ids = self._student(modality, item.question)
        else:
            ids = self._student(modality, self._text(item))
        if len(ids) > self.max_prompt_tokens:
            raise PromptTooLongError(
                f"item {item.id}: its prompt has {len(ids)} tokens, {self.max_prompt_tokens} fit:"
                " shorten it or raise rollout.max_model_len."
            )
        return ids

    def teacher(self, item: Item) -> tuple[int, ...]:
        """Token ids of x_t for the teacher."""
        return self._teacher(self._text(item))

    def response(self, text: str) -> tuple[int, ...]:
        """Token ids of a response given as text, with the end of turn that the student's template uses."""
        ids: list[int] = self.family.tokenizer(text, add_special_tokens=False)["input_ids"]
        return (*ids, self.family.stop_token_ids[0])

    def text_of(self, token_ids: Sequence[int]) -> str:
        """A response as text, without its end of turn."""
        text: str = self.family.tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=True)
        return text

    def _render_student(self, modality: pb.Modality, text: str) -> tuple[int, ...]:
        if modality == pb.MODALITY_SPEECH:
            return tuple(self.family.render_speech(text))
        return tuple(self.family.render_text(text))

    def _render_teacher(self, text: str) -> tuple[int, ...]:
        prompt = self.teacher_tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        return tuple(self.teacher_tokenizer(prompt, add_special_tokens=False)["input_ids"])

    @staticmethod
    def _text(item: Item) -> str:
        if item.text is None:
            raise ValueError(f"item {item.id} has no text form")
        return item.text
