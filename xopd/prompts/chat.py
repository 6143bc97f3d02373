"""Chat messages as token ids, by a checkpoint's own template; what a message says never becomes a control token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xopd.errors import UserError, first_line
from xopd.prompts.encoding import PlainTextError, TextEncoder

Message = Mapping[str, Any]
"""`role`, and `content`: a text, or parts of `type` text (with `text`) and audio."""
Template = Callable[[Sequence[Message]], str]
"""Writes messages as one text that ends where the answer begins."""
FIRST_STAND_IN = 0xE000
"""Characters for private use, which no text has by chance; those that a message holds are passed over."""


class UnusablePromptError(UserError):
    """An item that cannot be asked; others can. The sentence names it."""


class ChatTemplate:
    """Renders messages for one checkpoint."""

    def __init__(self, encoder: TextEncoder, template: Template) -> None:
        """Write messages by `template`, and encode what it wrote with `encoder`."""
        self.encoder = encoder
        self.template = template

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt that asks `messages`, up to where the answer begins.

        Raises:
            UnusablePromptError: if the template refuses the messages, or the tokenizer cannot write them as text.
        """
        stand_ins = self._stand_ins(messages)
        try:
            rendered = self.template([_replaced(message, stand_ins) for message in messages])
        except Exception as error:  # whatever a template raises of its own accord
            raise UnusablePromptError(f"the chat template refuses it ({first_line(error)})") from None
        try:
            return self.encoder.encode_rendered(rendered, {mark: spelling for spelling, mark in stand_ins.items()})
        except PlainTextError as error:
            raise UnusablePromptError(str(error)) from None

    def _stand_ins(self, messages: Sequence[Message]) -> dict[str, str]:
        """A character for each spelling of a control token in the messages."""
        texts = [text for message in messages for text in _texts(message)]
        spellings = dict.fromkeys(found for text in texts for found in self.encoder.spelling.findall(text))
        if not spellings:
            return {}
        used = set().union(*texts)
        free = (chr(code) for code in range(FIRST_STAND_IN, 0xF8FF) if chr(code) not in used)
        return {spelling: next(free) for spelling in spellings}


def _texts(message: Message) -> list[str]:
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]


def _replaced(message: Message, stand_ins: Mapping[str, str]) -> Message:
    if not stand_ins:
        return message
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": _replace(content, stand_ins)}
    parts = [{**part, "text": _replace(part["text"], stand_ins)} if "text" in part else part for part in content]
    return {**message, "content": parts}


def _replace(text: str, stand_ins: Mapping[str, str]) -> str:
    # Longest first, as a tokenizer looks for them.
    for spelling in sorted(stand_ins, key=len, reverse=True):
        text = text.replace(spelling, stand_ins[spelling])
    return text
