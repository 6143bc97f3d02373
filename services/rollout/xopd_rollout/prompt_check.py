"""Does a rendered prompt fit this pod's student? Asked before the engine sees it, and before a clip is fetched.

The engine refuses some of this itself, later and in other words; what it would cut short in silence is refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xopd.families import ModelFamily
from xopd.v1 import trajectory_pb2 as pb
from xopd_rollout.contract import BadPromptError


@dataclass(frozen=True)
class PromptCheck:
    """What the student can be asked."""

    vocabulary_size: int
    audio_token_id: int
    max_model_len: int

    @classmethod
    def of(cls, family: ModelFamily, max_model_len: int) -> PromptCheck:
        """For the checkpoint that `family` has opened."""
        return cls(family.vocabulary.size, family.audio_token_id, max_model_len)

    def check(self, token_ids: Sequence[int], spoken: bool, sampling: pb.Sampling) -> None:
        """Hold a prompt and what is asked of it against the student, its clip's length not known yet.

        Raises:
            BadPromptError: if it does not fit.
        """
        if not token_ids:
            raise BadPromptError("tokens", "the prompt is empty")
        self.check_room(len(token_ids), sampling)
        for what, ids in (("prompt", token_ids), ("stop", sampling.stop_token_ids)):
            low, high = min(ids, default=0), max(ids, default=0)
            if low < 0 or high >= self.vocabulary_size:
                outside = low if low < 0 else high
                raise BadPromptError(
                    "tokens", f"{what} token id {outside} lies outside the vocabulary of {self.vocabulary_size}"
                )
        self._check_placeholders(token_ids, spoken)

    def check_clip(self, token_ids: Sequence[int], audio_tokens: int, sampling: pb.Sampling) -> None:
        """Hold the clip's length against the room that its prompt leaves.

        Args:
            token_ids: the prompt, with one placeholder.
            audio_tokens: what stands in the placeholder's place.
            sampling: what is asked.

        Raises:
            BadPromptError: if the answer has not all the room that it was promised: the engine would cut it short.
        """
        if audio_tokens < 1:
            raise BadPromptError("length", "the clip is so short that it gives no audio token")
        self.check_room(len(token_ids) - 1 + audio_tokens, sampling, f", {audio_tokens} of them its clip's,")

    def check_room(self, prompt_tokens: int, sampling: pb.Sampling, of_which: str = "") -> None:
        """Raise BadPromptError where a prompt of so many tokens leaves less room than is asked for."""
        room = self.max_model_len - prompt_tokens
        if room < sampling.max_new_tokens:
            raise BadPromptError(
                "length",
                f"a prompt of {prompt_tokens} tokens{of_which} leaves {max(0, room)} of {self.max_model_len}"
                f" (rollout.max_model_len) for {sampling.max_new_tokens} new ones",
            )

    def _check_placeholders(self, token_ids: Sequence[int], spoken: bool) -> None:
        placeholders, wanted = list(token_ids).count(self.audio_token_id), int(spoken)
        if placeholders != wanted:
            raise BadPromptError("tokens", f"the prompt holds {placeholders} audio placeholders; {wanted} belong there")
