"""What a teacher answered, as arrays, after it was held against what was asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xopd.scoring.errors import BadAnswerError
from xopd.v1 import teacher_pb2 as pb
from xopd.wire import TokenScores

ABOVE_ZERO = 1e-3
"""A log-probability may exceed 0 by rounding, not by more (nats)."""


@dataclass(frozen=True)
class GeneratedResponse:
    """A teacher's own response: token ids [T] int32, the stop token included, and log-probabilities [T] float32."""

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]


def read_scores(
    request: pb.ScoreRequest, response: pb.ScoreResponse, model: str, vocabulary_size: int
) -> list[TokenScores]:
    """The scores of each response of `request`, in its order; `model` is what the pod says that it serves.

    All tokens that it names lie below `vocabulary_size`.

    Raises:
        BadAnswerError: if the answer is another request's, or is incomplete or impossible.
    """
    if response.request_id != request.request_id:
        raise BadAnswerError(f"asked for {request.request_id!r}, the teacher answered {response.request_id!r}")
    if response.model != model:
        raise BadAnswerError(
            f"{request.request_id}: {response.model!r} answered, the pod says that it serves {model!r}"
        )
    if not all(0 <= seconds < math.inf for seconds in (response.queue_seconds, response.compute_seconds)):
        raise BadAnswerError(f"{request.request_id}: took a time that is none")
    if len(response.scores) != len(request.responses):
        raise BadAnswerError(
            f"{request.request_id}: {len(request.responses)} responses were sent, {len(response.scores)} scores came"
        )
    return [
        _read_one(
            f"response {index} of {request.request_id}", len(asked.token_ids), request.top_k, vocabulary_size, score
        )
        for index, (asked, score) in enumerate(zip(request.responses, response.scores, strict=True))
    ]


def read_generated(
    request: pb.GenerateRequest, response: pb.GenerateResponse, vocabulary_size: int
) -> GeneratedResponse:
    """The generated response, of tokens below `vocabulary_size`.

    Raises:
        BadAnswerError: if it is empty, too long or impossible.
    """
    tokens = len(response.token_ids)
    if not 1 <= tokens <= request.max_new_tokens:
        raise BadAnswerError(f"at most {request.max_new_tokens} tokens were asked for, {tokens} came")
    token_ids = np.asarray(response.token_ids, dtype=np.int32)
    if token_ids.min() < 0 or token_ids.max() >= vocabulary_size:
        raise BadAnswerError(f"a generated token id lies outside the vocabulary of {vocabulary_size}")
    return GeneratedResponse(token_ids, _logprobs("the generated response", response.logprobs, tokens))


def _read_one(where: str, tokens: int, top_k: int, vocabulary_size: int, score: pb.ResponseLogprobs) -> TokenScores:
    if len(score.top_token_ids) != tokens * top_k:
        raise BadAnswerError(f"{where}: {tokens * top_k} top tokens were asked for, {len(score.top_token_ids)} came")
    top_token_ids = np.asarray(score.top_token_ids, dtype=np.int32)
    outside = top_token_ids[(top_token_ids < 0) | (top_token_ids >= vocabulary_size)]
    if len(outside):
        raise BadAnswerError(
            f"{where}: token id {outside[0]} is among the most probable, the vocabulary has {vocabulary_size}"
        )
    return TokenScores(
        _logprobs(where, score.logprobs, tokens),
        top_token_ids.reshape(tokens, top_k),
        _logprobs(where, score.top_logprobs, tokens * top_k).reshape(tokens, top_k),
        _logprobs(where, score.tail_logprobs, tokens if top_k else 0),
    )


def _logprobs(where: str, values: Sequence[float], expected: int) -> NDArray[np.float32]:
    found = np.asarray(values, dtype=np.float32)
    if len(found) != expected:
        raise BadAnswerError(f"{where}: {expected} log-probabilities were wanted, {len(found)} came")
    wrong = found[~is_logprob(found)]
    if len(wrong):
        raise BadAnswerError(f"{where}: {wrong[0]} cannot be a log-probability")
    return found


def is_logprob(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of `values` can be log-probabilities: finite, and not above 0 by more than rounding."""
    return np.isfinite(values) & (values <= ABOVE_ZERO)
