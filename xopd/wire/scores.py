"""What a teacher says of one response: the same arrays in its engine, on the wire, and in the trainer's batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xopd.v1 import teacher_pb2 as pb


@dataclass(frozen=True)
class TokenScores:
    """log π_T(y_t | x_t, y_<t) for the T tokens of one response: natural logarithm, float32.

    Over the ids below the vocabulary's size: the rows by which some output heads exceed it are nobody's tokens.
    """

    logprobs: NDArray[np.float32]
    """Of the response's own tokens, shape [T]."""
    top_token_ids: NDArray[np.int32]
    """The k most probable tokens at each position, most probable first, shape [T, k]; k may be 0."""
    top_logprobs: NDArray[np.float32]
    """Theirs, shape [T, k]."""
    tail_logprobs: NDArray[np.float32]
    """Log of the mass outside the top k, shape [T]; empty where k is 0."""

    def part(self, tokens: slice) -> TokenScores:
        """Those of some of the tokens."""
        return TokenScores(
            self.logprobs[tokens], self.top_token_ids[tokens], self.top_logprobs[tokens], self.tail_logprobs[tokens]
        )

    def as_message(self) -> pb.ResponseLogprobs:
        """As a teacher sends them: row after row."""
        return pb.ResponseLogprobs(
            logprobs=self.logprobs.tolist(),
            top_token_ids=self.top_token_ids.ravel().tolist(),
            top_logprobs=self.top_logprobs.ravel().tolist(),
            tail_logprobs=self.tail_logprobs.tolist(),
        )
