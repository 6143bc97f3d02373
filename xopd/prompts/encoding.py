"""Text that a user wrote as token ids: whatever it spells, it never becomes a control token.

A tokenizer turns the words of a control token, such as an end of turn, into that token wherever they stand, in a user's
question as well as in a template. Here the two are told apart: only what a template wrote may become a control token.
Text without such words is encoded exactly as the tokenizer does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

CONTROL_LIKE = re.compile(r"<\|.*\|>|</?(think|tool_call|tool_response)>", re.DOTALL)
"""Added tokens that are not marked special in every checkpoint, and steer a model all the same.

Others that are not special, such as runs of spaces, are ordinary text that happens to have a token of its own.
"""


class PlainTextError(ValueError):
    """A text that this tokenizer cannot write without a control token; the text, a clause, says which."""


class TextEncoder:
    """Encodes text with a transformers tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Read the control tokens of `tokenizer`; nothing is copied until a text spells one."""
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self.controls: dict[str, int] = {
            str(token.content): int(token_id)
            for token_id, token in added.items()
            if str(token.content).strip() and (token.special or CONTROL_LIKE.fullmatch(str(token.content)))
        }
        """Ids of the control tokens by what they are spelled like."""
        self._strips_right = {str(token.content) for token in added.values() if token.rstrip}
        self._strips_left = {str(token.content) for token in added.values() if token.lstrip}
        longest_first = sorted(self.controls, key=len, reverse=True)
        self.spelling = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        """Finds what would become a control token."""
        self._ids = frozenset(self.controls.values())
        self._plain: Tokenizer | None = None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that stands by itself, such as a reference response.

        Raises:
            PlainTextError: if the tokenizer cannot write it without a control token.
        """
        ids = self._encode_plainly(text) if self.spelling.search(text) else self._encode(text)
        self._assert_controls(ids, 0, text)
        return ids

    def encode_rendered(self, rendered: str, stand_ins: dict[str, str]) -> list[int]:
        """Token ids of what a template made of messages.

        Args:
            rendered: the template's text; what spells a control token in it was written by the template.
            stand_ins: single characters that stand in the place of spellings in the messages, and those spellings.

        Raises:
            PlainTextError: if the tokenizer cannot write a message without a control token.
        """
        ids: list[int] = []
        encoded_to = 0
        for start, end, before, after in self._between_controls(rendered):
            segment = rendered[start:end]
            if not any(character in segment for character in stand_ins):
                continue
            # A tokenizer splits at its control tokens before anything else, so that the parts can be encoded apart.
            ids += self._encode(rendered[encoded_to:start])
            segment = segment.lstrip() if before in self._strips_right else segment
            segment = segment.rstrip() if after in self._strips_left else segment
            ids += self._encode_plainly(
                segment.translate({ord(mark): spelling for mark, spelling in stand_ins.items()})
            )
            encoded_to = end
        ids += self._encode(rendered[encoded_to:])
        self._assert_controls(ids, len(self.spelling.findall(rendered)), rendered)
        return ids

    def _between_controls(self, rendered: str) -> list[tuple[int, int, str, str]]:
        """(start, end, control token before, control token after) of each stretch of ordinary text."""
        found = list(self.spelling.finditer(rendered))
        starts = [(0, ""), *((match.end(), match.group()) for match in found)]
        ends = [*((match.start(), match.group()) for match in found), (len(rendered), "")]
        return [(start, end, before, after) for (start, before), (end, after) in zip(starts, ends, strict=True)]

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _encode_plainly(self, text: str) -> list[int]:
        if self._plain is None:
            self._plain = self._without_controls()
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def _without_controls(self) -> Tokenizer:
        """The same tokenizer with the same ids, which looks for no control token in a text."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise PlainTextError(f"a {type(self.tokenizer).__name__} cannot write control tokens as plain text")
        about = json.loads(backend.to_str())
        for token in about["added_tokens"]:
            token["special"] = token["content"] in self.controls
        about["post_processor"] = about["truncation"] = about["padding"] = None
        plain: Tokenizer = Tokenizer.from_str(json.dumps(about))
        plain.encode_special_tokens = True
        return plain

    def _assert_controls(self, ids: Sequence[int], allowed: int, text: str) -> None:
        # Such as a tokenizer that maps full-width characters to plain ones before it looks for control tokens.
        if sum(token_id in self._ids for token_id in ids) > allowed:
            shown = next((str(name) for name, token_id in self.controls.items() if token_id in ids), "")
            raise PlainTextError(f"the tokenizer makes a control token of what it holds, such as {shown!r}")
