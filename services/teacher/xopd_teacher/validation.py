"""What a request must satisfy before it is queued; every refusal names the field and the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from xopd.v1 import teacher_pb2 as pb
from xopd.wire import PROTOCOL
from xopd.wire.limits import MAX_ID_CHARACTERS, MAX_STOP_TOKENS
from xopd_teacher.engines import EngineInfo, GenerateItem, ScoreItem
from xopd_teacher.engines.base import Ids


class RefusedError(Exception):
    """A request that cannot be served, with the gRPC status that says why."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        """Hold the status."""
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_context_tokens: int
    max_tokens_per_request: int
    max_responses_per_request: int
    max_top_k: int


def check_score(request: pb.ScoreRequest, info: EngineInfo, limits: Limits) -> ScoreItem:
    """The request as the engine takes it.

    Raises:
        RefusedError: naming what is wrong.
    """
    _check_protocol(request.protocol)
    _at_most("request_id (characters)", len(request.request_id), MAX_ID_CHARACTERS)
    theirs = request.vocabulary_fingerprint
    if theirs and theirs != info.vocabulary.fingerprint:
        raise RefusedError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"the caller's vocabulary ({theirs[:12]}) is not this teacher's ({info.vocabulary.fingerprint[:12]})",
        )
    prompt = _ids("prompt_token_ids", request.prompt_token_ids, info)
    if not request.responses:
        raise _invalid("responses is empty")
    _at_most("responses", len(request.responses), limits.max_responses_per_request)
    responses = tuple(
        _ids(f"responses[{index}].token_ids", response.token_ids, info)
        for index, response in enumerate(request.responses)
    )
    longest = len(prompt) + max(len(response) for response in responses)
    _at_most("prompt plus longest response (tokens)", longest, limits.max_context_tokens)
    item = ScoreItem(tuple(prompt.tolist()), responses, request.top_k)
    _at_most("prompt plus all responses (tokens)", item.tokens, limits.max_tokens_per_request)
    if request.top_k < 0:
        raise _invalid(f"top_k is {request.top_k}; it must be 0 or more")
    _at_most("top_k", request.top_k, limits.max_top_k)
    return item


def check_generate(request: pb.GenerateRequest, info: EngineInfo, limits: Limits) -> GenerateItem:
    """The request as the engine takes it.

    Raises:
        RefusedError: naming what is wrong.
    """
    _check_protocol(request.protocol)
    prompt = _ids("prompt_token_ids", request.prompt_token_ids, info)
    if request.max_new_tokens < 1:
        raise _invalid(f"max_new_tokens is {request.max_new_tokens}; it must be 1 or more")
    if not 0.0 <= request.temperature < float("inf"):
        raise _invalid(f"temperature is {request.temperature}; it must be 0 (greedy) or more")
    if request.temperature > info.max_temperature:
        raise _invalid(
            f"temperature is {request.temperature}; this teacher's engine takes {info.max_temperature} at most"
        )
    if request.seed < 0:
        raise _invalid(f"seed is {request.seed}; it must be 0 or more")
    _at_most("stop_token_ids", len(request.stop_token_ids), MAX_STOP_TOKENS)
    if request.stop_token_ids:
        _ids("stop_token_ids", request.stop_token_ids, info)
    _at_most("prompt plus max_new_tokens", len(prompt) + request.max_new_tokens, limits.max_context_tokens)
    return GenerateItem(
        tuple(prompt.tolist()),
        request.max_new_tokens,
        request.temperature,
        frozenset(request.stop_token_ids),
        request.seed,
    )


def _check_protocol(version: int) -> None:
    if version > PROTOCOL:
        raise RefusedError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"the request speaks protocol {version}, this teacher knows {PROTOCOL}: upgrade it",
        )
    if version == 0:
        raise _invalid("protocol is missing")


def _ids(field: str, values: Sequence[int], info: EngineInfo) -> Ids:
    ids = np.asarray(values, dtype=np.int64)
    if len(ids) == 0:
        raise _invalid(f"{field} is empty")
    size = info.vocabulary.size
    outside = ids[(ids < 0) | (ids >= size)]
    if len(outside):
        raise _invalid(f"{field} holds token id {outside[0]}; this teacher's ids are 0 to {size - 1}")
    return ids


def _at_most(what: str, value: int, limit: int) -> None:
    if value > limit:
        raise _invalid(f"{what} is {value}; the limit is {limit}")


def _invalid(reason: str) -> RefusedError:
    return RefusedError(grpc.StatusCode.INVALID_ARGUMENT, reason)
