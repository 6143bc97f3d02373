"""Both conditionings of every item: the student's text or speech prompt, and the teacher's text prompt.

Student and teacher write their prompts by their own templates, so the prompts differ in length; the response that
follows is the same array of token ids in both. Each prompt is rendered once and kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from xopd.data.items import Item
from xopd.errors import UserError
from xopd.prompts.chat import ChatTemplate, UnusablePromptError
from xopd.prompts.encoding import PlainTextError, TextEncoder
from xopd.prompts.student import StudentPrompts
from xopd.v1 import trajectory_pb2 as pb

DEFAULT_STYLE = "response"


class Conditionings:
    """Renders the prompts of items."""

    def __init__(self, family: StudentPrompts, teacher_tokenizer: Any, max_model_len: int) -> None:
        """Render student prompts with `family` and teacher prompts with the teacher's own tokenizer.

        `max_model_len` bounds the student's prompt and response together, audio tokens included.
        """
        self.family = family
        self.teacher_tokenizer = teacher_tokenizer
        self.max_model_len = max_model_len
        self._teacher_chat = ChatTemplate(TextEncoder(teacher_tokenizer), self._teacher_template)
        self._student = lru_cache(maxsize=65536)(self._render_student)
        self._teacher = lru_cache(maxsize=65536)(self._render_teacher)

    def student(self, item: Item, modality: pb.Modality, max_new_tokens: int) -> tuple[int, ...]:
        """Token ids of x_m for the student; a speech prompt holds one audio placeholder.

        Raises:
            UnusablePromptError: if the prompt, its clip included, leaves less room than `max_new_tokens`, or cannot
                be rendered.
        """
        ids, audio = self._read(item, modality)
        tokens, room = len(ids) + audio, self.max_model_len - max_new_tokens
        if tokens > room:
            heard = f" with its clip of {item.audio.seconds:.1f} s" if audio else ""
            raise UnusablePromptError(
                f"item {item.id}: its prompt has {tokens} tokens{heard}, {room} fit beside {max_new_tokens} new ones"
                f" in {self.max_model_len}: shorten it or raise rollout.max_model_len."
            )
        return ids

    def student_length(self, item: Item, modality: pb.Modality) -> int:
        """Tokens of x_m as the student reads it, those of its clip included. Raises as `student` does."""
        ids, audio = self._read(item, modality)
        return len(ids) + audio

    def _read(self, item: Item, modality: pb.Modality) -> tuple[tuple[int, ...], int]:
        """Token ids of x_m, and what its clip takes beyond the placeholder among them."""
        spoken = modality == pb.MODALITY_SPEECH
        try:
            ids = self._student(modality, item.question if spoken else self._text(item))
        except UnusablePromptError as error:
            raise UnusablePromptError(f"item {item.id}: its prompt cannot be written: {error}.") from None
        if not spoken:
            return ids, 0
        # Rounded first: 1.23 s are 19,680 samples, and not one more because of a last bit.
        samples = math.ceil(round(item.audio.seconds * self.family.sample_rate, 3))
        return ids, self.family.audio_tokens(samples) - 1

    def teacher(self, item: Item) -> tuple[int, ...]:
        """Token ids of x_t for the teacher.

        Raises:
            UnusablePromptError: if it cannot be rendered.
        """
        try:
            return self._teacher(self._text(item))
        except UnusablePromptError as error:
            raise UnusablePromptError(f"item {item.id}: the teacher's prompt cannot be written: {error}.") from None

    def response(self, item: Item, text: str) -> tuple[int, ...]:
        """Token ids of a response to `item` given as text, with the end of turn that the student's template uses.

        Raises:
            UnusablePromptError: if the tokenizer cannot write it as text.
        """
        try:
            return tuple(self.family.encode_response(text))
        except PlainTextError as error:
            raise UnusablePromptError(f"item {item.id}: its response cannot be written: {error}.") from None

    def target(self, item: Item, style: str) -> tuple[int, ...]:
        """Token ids of the item's own reference response; see `target_text`. Raises as it and `response` do."""
        return self.response(item, target_text(item, style))

    def text_of(self, token_ids: Sequence[int]) -> str:
        """A response as text, without its end of turn."""
        text: str = self.family.tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=True)
        return text

    def _render_student(self, modality: pb.Modality, text: str) -> tuple[int, ...]:
        if modality == pb.MODALITY_SPEECH:
            return tuple(self.family.render_speech(text))
        return tuple(self.family.render_text(text))

    def _render_teacher(self, text: str) -> tuple[int, ...]:
        return tuple(self._teacher_chat.render([{"role": "user", "content": text}]))

    def _teacher_template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        rendered: str = self.teacher_tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return rendered

    @staticmethod
    def _text(item: Item) -> str:
        if item.text is None:
            raise ValueError(f"item {item.id} has no text form")
        return item.text


def target_text(item: Item, style: str) -> str:
    """The reference response of an item: `response`, or the one that `targets` has under the name `style`.

    Raises:
        UserError: if the item has none.
    """
    text = item.response if style == DEFAULT_STYLE else item.targets.get(style, "")
    if not text:
        known = [*([DEFAULT_STYLE] if item.response else []), *sorted(item.targets)]
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(f"objective.target {style!r}: item {item.id} has no such response ({has}); correct either.")
    return text
