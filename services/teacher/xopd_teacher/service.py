"""The gRPC methods: check, queue, wait for the batch, answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np

from xopd.scoring.channel import MAX_MESSAGE_BYTES, RETRY_AFTER
from xopd.telemetry import Tracer
from xopd.v1 import teacher_pb2 as pb
from xopd.v1 import teacher_pb2_grpc
from xopd.wire import PROTOCOL
from xopd_teacher.batcher import Batcher, EngineError, QueueFullError
from xopd_teacher.engines import EngineInfo
from xopd_teacher.engines.base import Floats
from xopd_teacher.metrics import TeacherMetrics
from xopd_teacher.spans import note_status, record_done, server_span
from xopd_teacher.validation import Limits, RefusedError, check_generate, check_score

STREAM_IN_FLIGHT = 64
"""Requests of one stream that are worked on at a time; the stream is not read further meanwhile."""


class LogprobService(teacher_pb2_grpc.LogprobServiceServicer):
    """One teacher pod's methods."""

    def __init__(
        self,
        model: str,
        info: EngineInfo,
        limits: Limits,
        probed: Floats,
        batcher: Batcher,
        metrics: TeacherMetrics,
        tracer: Tracer,
    ) -> None:
        """Answer for `model` (a name for people), whose log-probabilities of the probe are `probed`."""
        self.tracer = tracer
        self.model = model
        self.info = info
        self.limits = limits
        self.probed = probed
        self.batcher = batcher
        self.metrics = metrics
        self.draining = False
        """Set to refuse new requests, while accepted ones are finished."""

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:  # noqa: N802
        """Log-probabilities of responses that share one prompt."""
        async with self._answering("score", context):
            response = await self._score(request, _deadline(context))
        return response  # noqa: RET504 (mypy: the block may swallow an exception)

    async def ScoreStream(self, requests: AsyncIterator[pb.ScoreStreamRequest], context: Any) -> None:  # noqa: N802
        """Many requests over one stream, answered as they finish. The first that fails ends the stream."""
        async with self._answering("score_stream", context):
            deadline = _deadline(context)
            slots, writing = asyncio.Semaphore(STREAM_IN_FLIGHT), asyncio.Lock()

            async def _answer(request: pb.ScoreRequest) -> None:
                response = await self._score_with_retries(request, deadline)
                async with writing:
                    await context.write(pb.ScoreStreamResponse(response=response))
                slots.release()

            try:
                async with asyncio.TaskGroup() as group:
                    async for message in requests:
                        await slots.acquire()
                        group.create_task(_answer(message.request))
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:  # noqa: N802
        """The teacher's own response to a prompt."""
        async with self._answering("generate", context):
            self._refuse_when_draining()
            item = check_generate(request, self.info, self.limits)
            generated = await self.batcher.generate(item, _deadline(context))
            self._need_finite(generated.logprobs, "the response")
            self.metrics.generated_tokens.inc(len(generated.token_ids))
        return pb.GenerateResponse(token_ids=generated.token_ids.tolist(), logprobs=generated.logprobs.tolist())

    async def Info(self, request: pb.InfoRequest, context: Any) -> pb.InfoResponse:  # noqa: N802
        """Which model, which vocabulary, which limits."""
        async with self._answering("info", context):
            self._refuse_when_draining()
        vocabulary = self.info.vocabulary
        return pb.InfoResponse(
            protocol=PROTOCOL,
            model=self.model,
            engine=self.info.name,
            engine_version=self.info.version,
            vocabulary_fingerprint=vocabulary.fingerprint,
            vocabulary_size=vocabulary.size,
            special_tokens=[pb.SpecialToken(text=text, token_id=i) for text, i in vocabulary.special_tokens],
            vocabulary_block_hashes=vocabulary.block_hashes,
            limits=pb.Limits(
                max_context_tokens=self.limits.max_context_tokens,
                max_tokens_per_request=self.limits.max_tokens_per_request,
                max_responses_per_request=self.limits.max_responses_per_request,
                max_top_k=self.limits.max_top_k,
                max_message_bytes=MAX_MESSAGE_BYTES,
            ),
            probe_logprobs=self.probed.tolist(),
            dtype=self.info.dtype,
        )

    async def _score(self, request: pb.ScoreRequest, deadline: float | None) -> pb.ScoreResponse:
        self._refuse_when_draining()
        item = check_score(request, self.info, self.limits)
        self.metrics.top_k_requests.inc(int(item.top_k > 0))
        scores, done = await self.batcher.score(item, deadline)
        computed = {"xopd.responses": len(item.responses), "xopd.tokens": item.tokens}
        record_done(self.tracer, done.queue_seconds, done.compute_seconds, computed)
        for index, score in enumerate(scores):
            for values in (score.logprobs, score.top_logprobs, score.tail_logprobs):
                self._need_finite(values, f"response {index} of request {request.request_id!r}")
        self.metrics.queue_seconds.observe(done.queue_seconds)
        self.metrics.scored_tokens.inc(sum(len(response) for response in item.responses))
        return pb.ScoreResponse(
            request_id=request.request_id,
            scores=[score.as_message() for score in scores],
            model=self.model,
            queue_seconds=done.queue_seconds,
            compute_seconds=done.compute_seconds,
        )

    async def _score_with_retries(self, request: pb.ScoreRequest, deadline: float | None) -> pb.ScoreResponse:
        """As `_score`, but wait where the queue is full: a stream's own flow control holds its sender back."""
        while True:
            try:
                return await self._score(request, deadline)
            except QueueFullError as full:
                if deadline is not None and time.monotonic() + full.retry_after_s > deadline:
                    raise
                await asyncio.sleep(full.retry_after_s)

    @contextlib.asynccontextmanager
    async def _answering(self, method: str, context: Any) -> AsyncIterator[None]:
        """Count a call, and turn what goes wrong in the block into a gRPC status."""
        self.metrics.in_flight.labels(method).inc()
        code, reason = grpc.StatusCode.CANCELLED, ""
        trailing: tuple[tuple[str, str], ...] = ()
        with server_span(self.tracer, method, context) as span:
            try:
                yield
                code = grpc.StatusCode.OK
            except RefusedError as refused:
                code, reason = refused.code, str(refused)
            except QueueFullError as full:
                code, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, str(full)
                trailing = ((RETRY_AFTER, str(max(1, round(1000 * full.retry_after_s)))),)
            except TimeoutError as late:
                code, reason = grpc.StatusCode.DEADLINE_EXCEEDED, str(late)
            except EngineError as broken:
                # Not INTERNAL: another pod, or this one after its restart, may well succeed.
                code, reason = grpc.StatusCode.ABORTED, str(broken)
            finally:
                self.metrics.in_flight.labels(method).dec()
                self.metrics.requests.labels(method, code.name.lower()).inc()
                note_status(span, code, reason)
        if code is not grpc.StatusCode.OK:
            await context.abort(code, reason, trailing)

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise RefusedError(grpc.StatusCode.UNAVAILABLE, "this teacher is shutting down")

    def _need_finite(self, values: Any, of: str) -> None:
        if not np.isfinite(values).all():
            self.metrics.non_finite.inc()
            raise RefusedError(
                grpc.StatusCode.INTERNAL, f"the model gave a log-probability that is NaN or infinite for {of}"
            )


def _deadline(context: Any) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + float(remaining)
