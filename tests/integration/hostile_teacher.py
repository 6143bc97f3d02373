"""A teacher over real gRPC that answers in whatever way a test wants, right or wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from tests.random_models import make_tokenizer
from xopd.prompts.vocabulary import Vocabulary, vocabulary_of
from xopd.v1 import teacher_pb2 as pb
from xopd.v1 import teacher_pb2_grpc

Spoil = Callable[[pb.ScoreRequest, pb.ScoreResponse], None]
GREEDY = [111, 107, 258]
"""Its answer to everything; 258 is the end of turn."""


class HostileTeacher(teacher_pb2_grpc.LogprobServiceServicer):
    """Right log-probabilities are all -0.5; `spoil` may change an answer before it is sent."""

    def __init__(self, spoil: Spoil | None = None, model: str = "right") -> None:
        """Say that it serves `model`."""
        self.spoil = spoil
        self.model = model
        self.vocabulary: Vocabulary = vocabulary_of(make_tokenizer())
        self.probe: list[float] = []
        """Its log-probabilities of the probe; an older teacher tells none."""
        self.dtype = ""
        self.most_responses = 8
        self.answer = GREEDY
        self.asked = 0
        self.server: Any = None
        self.address = ""

    async def __aenter__(self) -> HostileTeacher:
        """Listen."""
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        teacher_pb2_grpc.add_LogprobServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End."""
        await self.server.stop(None)

    async def Info(self, request: pb.InfoRequest, context: Any) -> pb.InfoResponse:  # noqa: N802
        """What it says of itself."""
        return pb.InfoResponse(
            protocol=1,
            model=self.model,
            vocabulary_fingerprint=self.vocabulary.fingerprint,
            vocabulary_size=self.vocabulary.size,
            special_tokens=[pb.SpecialToken(text=t, token_id=i) for t, i in self.vocabulary.special_tokens],
            vocabulary_block_hashes=self.vocabulary.block_hashes,
            limits=pb.Limits(
                max_context_tokens=1000,
                max_tokens_per_request=1000,
                max_responses_per_request=self.most_responses,
                max_top_k=8,
            ),
            probe_logprobs=self.probe,
            dtype=self.dtype,
        )

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:  # noqa: N802
        """Score, and spoil."""
        self.asked += 1
        if request.vocabulary_fingerprint and request.vocabulary_fingerprint != self.vocabulary.fingerprint:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the caller's vocabulary is not this teacher's")
        response = pb.ScoreResponse(request_id=request.request_id, model=self.model)
        for sequence in request.responses:
            response.scores.add(logprobs=[-0.5] * len(sequence.token_ids))
        if self.spoil is not None:
            self.spoil(request, response)
        return response

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:  # noqa: N802
        """The same answer to everything, cut as asked."""
        tokens = self.answer[: request.max_new_tokens]
        return pb.GenerateResponse(token_ids=tokens, logprobs=[-0.1] * len(tokens))
