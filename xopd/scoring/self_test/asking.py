"""One pod asked by its own stub: its answers are held against what was asked, and every wait has an end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from xopd.errors import UserError
from xopd.scoring.answers import GeneratedResponse, read_generated, read_scores
from xopd.scoring.client import is_own_fault, retry_after
from xopd.scoring.errors import BadAnswerError
from xopd.scoring.pods import Pod
from xopd.scoring.pool import describe_status
from xopd.v1 import teacher_pb2 as pb
from xopd.wire import PROTOCOL

Ids = Sequence[int]
Scores = list[NDArray[np.float32]]
"""Log-probabilities of each response of a request, [T] each."""
BUSY_PAUSE_S = 0.5
"""Before a busy pod is asked again, where it gives no hint (seconds)."""
Response = TypeVar("Response")


class PodAwayError(Exception):
    """The pod cannot be tested now; the text says why."""


class Asking:
    """Asks one pod that takes calls."""

    def __init__(self, pod: Pod, deadline_s: float) -> None:
        """Wait for each call up to `deadline_s` (seconds)."""
        assert pod.info is not None
        self.pod = pod
        self.info: pb.InfoResponse = pod.info
        self.deadline_s = deadline_s
        self._asked = 0

    async def scores(self, prompt: Ids, responses: Sequence[Ids]) -> Scores:
        """Log-probabilities of `responses` after `prompt`.

        Raises:
            PodAwayError: if the pod does not answer, or refuses.
            UserError: if it answers what cannot be right.
        """
        self._asked += 1
        request = pb.ScoreRequest(
            protocol=PROTOCOL,
            request_id=f"self-test-{self._asked}",
            prompt_token_ids=prompt,
            responses=[pb.TokenSequence(token_ids=response) for response in responses],
            vocabulary_fingerprint=self.info.vocabulary_fingerprint,
        )
        response = await self._with_retries(lambda: self.pod.stub.Score(request, timeout=self.deadline_s))
        with _bad_answers(self.pod.address):
            read = read_scores(request, response, self.info.model, self.info.vocabulary_size)
        return [score.logprobs for score in read]

    async def answer(self, prompt: Ids, max_new_tokens: int, stop_token_ids: Ids) -> GeneratedResponse:
        """The pod's own greedy answer to `prompt`. Raises as `scores` does."""
        request = pb.GenerateRequest(
            protocol=PROTOCOL,
            prompt_token_ids=prompt,
            max_new_tokens=max_new_tokens,
            stop_token_ids=stop_token_ids,
        )
        response = await self._with_retries(lambda: self.pod.stub.Generate(request, timeout=self.deadline_s))
        with _bad_answers(self.pod.address):
            return read_generated(request, response, self.info.vocabulary_size)

    async def _with_retries(self, call: Callable[[], Awaitable[Response]]) -> Response:
        """Call, again where the pod is busy; who calls this bounds the whole."""
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if is_own_fault(error):
                    raise UserError(
                        f"teacher {self.pod.address}: it cannot score the first items ({describe_status(error)});"
                        " serve a checkpoint that is whole, or set another teacher.dtype."
                    ) from None
                busy = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                if not busy or "larger than max" in (error.details() or ""):
                    raise PodAwayError(describe_status(error)) from None
                hint_s = retry_after(error)
                await asyncio.sleep(BUSY_PAUSE_S if hint_s is None else hint_s)


@contextlib.contextmanager
def _bad_answers(address: str) -> Iterator[None]:
    """Turns an answer that cannot be right into a sentence that names its pod."""
    try:
        yield
    except BadAnswerError as error:
        raise UserError(
            f"teacher {address}: it answered what cannot be right ({error}); run the same version of X-OPD there, or"
            " serve another teacher."
        ) from None
