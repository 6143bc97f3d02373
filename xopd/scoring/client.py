"""The teacher client: scores and generates on whichever pods there are, and tries again up to a limit.

Every call is idempotent: a repeated one gives the same answer and changes nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import numpy as np
import structlog
from numpy.typing import ArrayLike
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
)

from xopd.config.schema import TeacherSettings
from xopd.errors import UserError
from xopd.prompts.vocabulary import Vocabulary
from xopd.scoring.answers import GeneratedResponse, read_generated, read_scores
from xopd.scoring.channel import RETRY_AFTER
from xopd.scoring.errors import BadAnswerError, ScoringError, UnscorableError
from xopd.scoring.pods import Pod, parse_source
from xopd.scoring.pool import NO_CREDENTIALS, PodPool, describe_status
from xopd.scoring.spans import Metadata, call_span
from xopd.security import Credentials
from xopd.telemetry import NO_TRACER, Tracer
from xopd.v1 import teacher_pb2 as pb
from xopd.wire import PROTOCOL, TokenScores

log = structlog.get_logger(__name__)
Response = TypeVar("Response")
Code = grpc.StatusCode
EJECTING = frozenset(
    {
        Code.UNAVAILABLE,
        Code.DEADLINE_EXCEEDED,
        Code.UNKNOWN,
        Code.CANCELLED,
        Code.ABORTED,
        Code.FAILED_PRECONDITION,
        Code.UNAUTHENTICATED,
    }
)
"""Failures of a pod rather than of a request: the pod is probed before it gets more work, the call tried again."""
REFUSING = frozenset({Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED, Code.OUT_OF_RANGE})
"""What a pod says of a request that it, and every other, will refuse again."""
MOST_BAD_ANSWERS = 3
"""Answers to one request that cannot be right, before it is given up: another pod may know better."""
FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 0.1, 5.0


@dataclass
class Counters:
    """What a client did so far, summed over calls that succeeded.

    seconds: from sending a call to its answer; score_seconds: those of Score alone. pod_seconds: of these, what the
    pod says it queued and computed; the rest is transport.
    """

    calls: int = 0
    retries: int = 0
    bad_answers: int = 0
    scored_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    score_seconds: float = 0.0
    pod_seconds: float = 0.0


class TeacherClient:
    """A client of teacher pods. Use as an async context manager, within one event loop."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        deadline_s: float = 60.0,
        attempts: int = 8,
        retry_limit_s: float = 90.0,
        tracer: Tracer = NO_TRACER,
        credentials: Credentials = NO_CREDENTIALS,
        on_bad_answer: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            endpoints: host:port of each teacher, where a name with several addresses counts as several pods; or
                file:PATH, which lists such.
            deadline_s: of each try of a call (seconds).
            attempts: tries before a call is given up, if also
            retry_limit_s: seconds have passed since it began. Without any pod a call waits so long.
            tracer: makes a span of each try, where something traced asks.
            credentials: the token that is shown, and whose certificates are trusted.
            on_bad_answer: called for each answer that cannot be right.

        Raises:
            UserError: if there is no endpoint, or one is neither.
        """
        if not endpoints:
            raise UserError("teacher.endpoints is empty; name the teacher's host:port.")
        self.deadline_s = deadline_s
        self.attempts = attempts
        self.retry_limit_s = retry_limit_s
        self.tracer = tracer
        self.counters = Counters()
        self.on_bad_answer = on_bad_answer
        self._pool = PodPool([parse_source(text) for text in dict.fromkeys(endpoints)], retry_limit_s, credentials)

    @classmethod
    def from_settings(
        cls,
        settings: TeacherSettings,
        tracer: Tracer = NO_TRACER,
        credentials: Credentials = NO_CREDENTIALS,
        on_bad_answer: Callable[[], None] = lambda: None,
    ) -> TeacherClient:
        """The client that a configuration describes. Raises UserError as the constructor does."""
        return cls(
            settings.endpoints,
            deadline_s=settings.deadline_s,
            attempts=settings.attempts,
            retry_limit_s=settings.retry_limit_s,
            tracer=tracer,
            credentials=credentials,
            on_bad_answer=on_bad_answer,
        )

    async def __aenter__(self) -> TeacherClient:
        """Begin to find pods; does not wait for them."""
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every channel."""
        await self._pool.__aexit__()

    async def verify(self, student: Vocabulary, context_tokens: int = 0) -> None:
        """Ask every pod for its vocabulary and its limits; pods that come later are held to the same.

        Args:
            student: vocabulary of the student.
            context_tokens: longest prompt plus response that will be sent.

        Raises:
            UserError: if a teacher's vocabulary differs (naming the difference), if its context is too short, or if
                none answers within `retry_limit_s`.
        """
        await self._pool.admit_only(student)
        limit = (await self._pool.limits()).max_context_tokens
        if limit < context_tokens:
            raise UserError(
                f"teacher.endpoints: the teacher takes {limit} tokens of prompt and response, {context_tokens} are"
                " needed; raise teacher.token_budget, or take a teacher with a longer context."
            )

    async def max_top_k(self) -> int:
        """Most probable tokens that every teacher gives on demand. Raises as `score` does."""
        return (await self._pool.limits()).max_top_k

    async def score(
        self, prompt_token_ids: Sequence[int], responses: Sequence[ArrayLike], request_id: str, top_k: int = 0
    ) -> list[TokenScores]:
        """Log-probabilities of `responses` after one prompt; too large a request travels in parts.

        Args:
            prompt_token_ids: x_t as the teacher's template renders it, at least one token.
            responses: token ids of each y, [T] integers with T >= 1.
            request_id: for logs, and checked in the answer.
            top_k: most probable tokens wanted beside the sampled ones.

        Raises:
            UnscorableError: if the teachers refuse the request, or answer what cannot be right.
            TeacherUnreachableError: if no teacher can be had within `retry_limit_s`.
        """
        if not responses:
            return []
        sequences = [pb.TokenSequence(token_ids=_as_ints(response)) for response in responses]
        parts = _parts(len(prompt_token_ids), sequences, await self._pool.limits())
        student = self._pool.student
        requests = [
            pb.ScoreRequest(
                protocol=PROTOCOL,
                request_id=request_id if len(parts) == 1 else f"{request_id}#{index}",
                prompt_token_ids=_as_ints(prompt_token_ids),
                responses=part,
                top_k=top_k,
                vocabulary_fingerprint=student.fingerprint if student is not None else "",
            )
            for index, part in enumerate(parts)
        ]
        answered = await asyncio.gather(*(self._score(request) for request in requests))
        return [score for scores in answered for score in scores]

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        max_new_tokens: int,
        stop_token_ids: Sequence[int] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> GeneratedResponse:
        """The teacher's own response; temperature 0 is greedy. The same seed gives the same response.

        Raises:
            UnscorableError: if the teachers refuse the request, or answer what cannot be right.
            TeacherUnreachableError: if no teacher can be had within `retry_limit_s`.
        """
        request = pb.GenerateRequest(
            protocol=PROTOCOL,
            prompt_token_ids=_as_ints(prompt_token_ids),
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            stop_token_ids=_as_ints(stop_token_ids),
            seed=seed,
        )

        async def _call(pod: Pod, metadata: Metadata) -> GeneratedResponse:
            assert pod.info is not None
            response = await pod.stub.Generate(request, timeout=self.deadline_s, metadata=metadata)
            return read_generated(request, response, pod.info.vocabulary_size)

        tokens = len(request.prompt_token_ids) + max_new_tokens
        generated = await self._on_some_pod("Generate", _call, tokens, "generate")
        self.counters.generated_tokens += len(generated.token_ids)
        return generated

    def admitted(self) -> list[Pod]:
        """The pods that take calls now, by address: for checks that are of one pod."""
        return [pod for pod in self._pool.pods if pod.admitted]

    async def describe(self) -> list[dict[str, Any]]:
        """Each pod for /status: endpoint, model, engine, ok, and what it did."""
        return [pod.describe() for pod in self._pool.pods]

    async def _score(self, request: pb.ScoreRequest) -> list[TokenScores]:
        tokens = sum(len(response.token_ids) for response in request.responses)

        async def _call(pod: Pod, metadata: Metadata) -> list[TokenScores]:
            began = time.monotonic()
            assert pod.info is not None
            model, vocabulary_size = pod.info.model, pod.info.vocabulary_size
            response = await pod.stub.Score(request, timeout=self.deadline_s, metadata=metadata)
            scores = read_scores(request, response, model, vocabulary_size)
            self.counters.score_seconds += time.monotonic() - began
            self.counters.pod_seconds += response.queue_seconds + response.compute_seconds
            pod.scored_tokens += tokens
            return scores

        scores = await self._on_some_pod("Score", _call, len(request.prompt_token_ids) + tokens, request.request_id)
        self.counters.scored_tokens += tokens
        return scores

    async def _on_some_pod(
        self, method: str, call: Callable[[Pod, Metadata], Awaitable[Response]], tokens: int, what: str
    ) -> Response:
        """Try `call` on one pod after the other until it succeeds, is rejected, or attempts and time are spent."""
        avoid: set[str] = set()
        tried = itertools.count()
        bad = 0

        def _pause(state: RetryCallState) -> float:
            if self._pool.has_other(avoid):
                return random.uniform(0.0, 0.05)
            avoid.clear()
            hint = retry_after(state.outcome.exception()) if state.outcome is not None else None
            back_off = min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * 2 ** (state.attempt_number - 1))
            return (back_off if hint is None else hint) * random.uniform(1.0, 1.5)

        def _count_bad(pod: Pod) -> None:
            nonlocal bad
            bad += 1
            avoid.add(pod.address)
            self.counters.bad_answers += 1
            self.on_bad_answer()

        async def _try() -> Response:
            async with self._pool.borrowed(tokens, avoid) as pod:
                began = time.monotonic()
                about = {"xopd.request_id": what, "xopd.attempt": next(tried), "xopd.tokens": tokens}
                try:
                    with call_span(self.tracer, method, pod.address, about) as metadata:
                        response = await call(pod, metadata)
                except BadAnswerError as error:
                    _count_bad(pod)
                    # Probed before it gets more work: it may serve another model by now.
                    self._pool.eject(pod, f"answered what cannot be right: {error}")
                    raise
                except grpc.aio.AioRpcError as error:
                    if is_own_fault(error):
                        _count_bad(pod)
                    avoid.add(pod.address)
                    if error.code() in EJECTING:
                        self._pool.eject(pod, describe_status(error))
                    raise
                self.counters.calls += 1
                self.counters.seconds += time.monotonic() - began
                return response

        spent = stop_all(stop_after_attempt(self.attempts), stop_after_delay(self.retry_limit_s))
        retrying = AsyncRetrying(
            retry=retry_if_exception(_worth_another_try),
            stop=lambda state: bad >= MOST_BAD_ANSWERS or spent(state),
            wait=_pause,
            before_sleep=self._count_retry,
            reraise=True,
        )
        try:
            return await retrying(_try)
        except grpc.aio.AioRpcError as error:
            tries = retrying.statistics.get("attempt_number", 1)
            again = f" after {tries} tries" if tries > 1 else ""
            kind = UnscorableError if error.code() in REFUSING or is_own_fault(error) else ScoringError
            raise kind(f"{what}: the teacher failed it{again} ({describe_status(error)})") from None

    def _count_retry(self, state: RetryCallState) -> None:
        self.counters.retries += 1


def _worth_another_try(error: BaseException) -> bool:
    if isinstance(error, BadAnswerError):
        return True
    if not isinstance(error, grpc.aio.AioRpcError):
        return False
    details = error.details() or ""
    if error.code() is Code.RESOURCE_EXHAUSTED:
        # The same status means "the message is too large", which it will be again.
        return "larger than max" not in details
    return error.code() in EJECTING or error.code() is Code.INTERNAL


def is_own_fault(error: grpc.aio.AioRpcError) -> bool:
    """Whether a pod says that its answer would be wrong, such as NaN; gRPC uses the code for a cut connection, too."""
    return error.code() is Code.INTERNAL and "RST_STREAM" not in (error.details() or "")


def retry_after(error: BaseException | None) -> float | None:
    """The pod's hint (seconds), where it gave one."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return None
    metadata: Any = error.trailing_metadata() or ()
    hint = str(dict(metadata).get(RETRY_AFTER, ""))
    return int(hint) / 1000 if hint.isdigit() else None


def _parts(prompt_tokens: int, responses: list[pb.TokenSequence], limits: pb.Limits) -> list[list[pb.TokenSequence]]:
    """Cut the responses into requests within the teachers' limits, in order; at least one response in each."""
    parts: list[list[pb.TokenSequence]] = []
    tokens = 0
    for response in responses:
        length = len(response.token_ids)
        full = not parts or len(parts[-1]) >= limits.max_responses_per_request
        if full or tokens + length > limits.max_tokens_per_request:
            parts.append([])
            tokens = prompt_tokens
        parts[-1].append(response)
        tokens += length
    return parts


def _as_ints(values: ArrayLike | Sequence[int]) -> list[int]:
    ids: list[int] = np.asarray(values, dtype=np.int64).tolist()
    return ids
