"""How a student writes its prompts: what rendering both conditionings of an item needs of a model family."""

from __future__ import annotations

from typing import Any, Protocol

from xopd.data.audio import Hearing
from xopd.prompts.vocabulary import Vocabulary


class StudentPrompts(Hearing, Protocol):
    """Prompts by the student's own template; `xopd.families.ModelFamily` has the rest of a family."""

    tokenizer: Any
    vocabulary: Vocabulary
    audio_token_id: int
    """The placeholder: one in a rendered speech prompt, repeated once an audio token before the model sees it."""
    stop_token_ids: tuple[int, ...]
    """End-of-turn tokens; the first is the one the template uses."""

    def render_text(self, text: str) -> list[int]:
        """Token ids of the prompt that asks `text`, up to where the answer begins.

        Raises:
            UnusablePromptError: if the template or the tokenizer cannot write it.
        """
        ...

    def render_speech(self, question: str) -> list[int]:
        """Token ids of the prompt that holds one audio placeholder, then `question` (may be empty).

        Raises as `render_text` does.
        """
        ...

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a response given as text, with the end of turn that the template uses.

        Raises:
            PlainTextError: if the tokenizer cannot write it as text.
        """
        ...
