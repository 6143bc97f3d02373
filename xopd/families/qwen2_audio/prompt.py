"""Prompts of Qwen2-Audio: its own chat template, with one placeholder for a clip, and the tokens that a clip takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, AutoProcessor

from xopd.errors import UserError
from xopd.prompts import ChatTemplate, TextEncoder
from xopd.prompts.vocabulary import vocabulary_of

END_OF_TURN = "<|im_end|>"
CONVOLUTION_STRIDE = 2
"""Of the tower's second convolution; the pooling behind it halves once more."""


class Prompts:
    """See `xopd.prompts.student.StudentPrompts`."""

    def __init__(self, path: str) -> None:
        """Read processor and config from `path`.

        Raises:
            UserError: if its chat template does not write one placeholder for one clip.
        """
        self.path = path
        self.processor = AutoProcessor.from_pretrained(path, local_files_only=True)
        self.tokenizer = self.processor.tokenizer
        self.config = AutoConfig.from_pretrained(path, local_files_only=True)
        self.vocabulary = vocabulary_of(self.tokenizer)
        self.audio_token_id = int(self.tokenizer.convert_tokens_to_ids(self.processor.audio_token))
        self.stop_token_ids: tuple[int, ...] = (int(self.tokenizer.convert_tokens_to_ids(END_OF_TURN)),)
        extractor = self.processor.feature_extractor
        self.sample_rate = int(extractor.sampling_rate)
        self.hop = int(extractor.hop_length)
        positions = int(self.config.audio_config.max_source_positions)
        self.max_audio_samples = min(int(extractor.n_samples), CONVOLUTION_STRIDE * positions * self.hop)
        self._encoder = TextEncoder(self.tokenizer)
        self._chat = ChatTemplate(self._encoder, self._template)
        placeholders = self.render_speech("").count(self.audio_token_id)
        if placeholders != 1:
            raise UserError(
                f"student.path {path}: its chat template writes {placeholders} audio placeholders for one clip; one is"
                " needed."
            )

    def render_text(self, text: str) -> list[int]:
        """Token ids of the prompt that asks `text`."""
        return self._render([{"type": "text", "text": text}])

    def render_speech(self, question: str) -> list[int]:
        """Token ids of the prompt with one audio placeholder, then `question`."""
        content: list[dict[str, str]] = [{"type": "audio", "audio_url": ""}]
        if question:
            content.append({"type": "text", "text": question})
        return self._render(content)

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a response given as text, its end of turn included."""
        return [*self._encoder.encode(text), self.stop_token_ids[0]]

    def audio_tokens(self, samples: int) -> int:
        """Tokens of a clip, from its mel frames; see `tokens_of_frames`."""
        frames = -(-samples // self.hop)
        return tokens_of_frames(frames) if frames else 0

    def _render(self, content: list[dict[str, str]]) -> list[int]:
        return self._chat.render([{"role": "user", "content": content}])

    def _template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        text: str = self.processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return text


def tokens_of_frames(frames: int) -> int:
    """Audio tokens of so many mel frames, at least one: halved by the second convolution, and once more by pooling."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1
