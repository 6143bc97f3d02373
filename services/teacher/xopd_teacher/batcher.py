"""Dynamic batching: requests that wait at the same time share a forward pass, under a token budget.

Invariants:
- At most `max_queue` requests wait; the next is refused with a hint when to come back.
- A request whose caller has gone, or whose deadline has passed, never reaches the engine.
- The engine runs in one thread of its own, so the event loop goes on answering while it computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from xopd.wire import TokenScores
from xopd_teacher.engines import Batch, Engine, Generated, GenerateItem, ScoreItem
from xopd_teacher.metrics import TeacherMetrics

log = structlog.get_logger(__name__)
Kind = Literal["score", "generate"]
SHORTEST_HINT_S, LONGEST_HINT_S = 0.05, 5.0
FAILURES_TO_DIE = 3
"""Batches in a row that broke the engine, after which it is taken for dead."""


class QueueFullError(Exception):
    """Too many requests wait; `retry_after_s` is when to come back (seconds)."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        """Say how many wait."""
        super().__init__(f"{waiting} requests wait already; come back in {retry_after_s:.2f} s")
        self.retry_after_s = retry_after_s


class EngineError(Exception):
    """The engine failed on the batch that held this request."""


@dataclass(frozen=True)
class Done:
    """An answer, and the seconds its request waited and its batch took."""

    answer: Any
    queue_seconds: float
    compute_seconds: float


@dataclass
class _Job:
    kind: Kind
    item: Any
    tokens: int
    deadline: float | None  # by time.monotonic
    future: asyncio.Future[Done]
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Queues requests and runs them through one engine."""

    def __init__(
        self, engine: Engine, thread: ThreadPoolExecutor, metrics: TeacherMetrics,
        token_budget: int, batch_window_s: float, max_queue: int,
    ) -> None:  # fmt: skip
        """Feed `engine`, whose calls all run on `thread` (one worker)."""
        self.engine = engine
        self.token_budget = token_budget
        self.batch_window_s = batch_window_s
        self.max_queue = max_queue
        self.failures_in_a_row = 0
        self._thread = thread
        self._metrics = metrics
        self._waiting: dict[Kind, deque[_Job]] = {"score": deque(), "generate": deque()}
        self._computing = False
        self._idle = asyncio.Event()
        self._arrival = asyncio.Event()
        self._tokens_per_s = 0.0
        metrics.watch_queue(self.depth, self.oldest_age)
        metrics.queue_limit.set(max_queue)
        metrics.token_budget.set(token_budget)

    async def score(self, item: ScoreItem, deadline: float | None) -> tuple[tuple[TokenScores, ...], Done]:
        """Score one request. `deadline` is by time.monotonic.

        Raises:
            QueueFullError: if too many requests wait.
            TimeoutError: if the deadline passed before the engine took the request.
            EngineError: if the engine failed.
        """
        done = await self._submit("score", item, item.tokens, deadline)
        return done.answer, done

    async def generate(self, item: GenerateItem, deadline: float | None) -> Generated:
        """Answer one prompt. `deadline` and errors as with `score`."""
        done = await self._submit("generate", item, item.tokens, deadline)
        answer: Generated = done.answer
        return answer

    def depth(self) -> int:
        """Requests that wait."""
        return sum(len(jobs) for jobs in self._waiting.values())

    def oldest_age(self) -> float:
        """Seconds that the longest-waiting request has waited."""
        arrivals = [jobs[0].arrived for jobs in self._waiting.values() if jobs]
        return time.monotonic() - min(arrivals) if arrivals else 0.0

    async def until_idle(self) -> None:
        """Wait until nothing waits and nothing is computed."""
        while self.depth() or self._computing:
            self._idle.clear()
            await self._idle.wait()

    async def run(self) -> None:
        """Batch and compute until cancelled."""
        while True:
            await self._arrival.wait()
            self._arrival.clear()
            while self.depth():
                await self._gather_company()
                kind, jobs = self._next_batch()
                if jobs:
                    await self._compute(kind, jobs)
            self._idle.set()

    async def _submit(self, kind: Kind, item: Any, tokens: int, deadline: float | None) -> Done:
        if self.depth() >= self.max_queue:
            self._metrics.shed.inc()
            raise QueueFullError(self.depth(), self._hint())
        job = _Job(kind, item, tokens, deadline, asyncio.get_running_loop().create_future())
        self._waiting[kind].append(job)
        self._arrival.set()
        return await job.future

    def _hint(self) -> float:
        """When half the queue should have been worked off (seconds)."""
        tokens = sum(job.tokens for jobs in self._waiting.values() for job in jobs)
        guess = tokens / 2 / self._tokens_per_s if self._tokens_per_s else SHORTEST_HINT_S
        return min(LONGEST_HINT_S, max(SHORTEST_HINT_S, guess))

    async def _gather_company(self) -> None:
        """Wait out the batch window, unless a batch is full already."""
        if self.batch_window_s and not any(
            sum(job.tokens for job in jobs) >= self.token_budget for jobs in self._waiting.values()
        ):
            await asyncio.sleep(self.batch_window_s)

    def _next_batch(self) -> tuple[Kind, list[_Job]]:
        """Take the kind whose oldest request waits longest, as many as the budget holds; at least one."""
        kind = min((k for k in self._waiting if self._waiting[k]), key=lambda k: self._waiting[k][0].arrived)
        queue, tokens = self._waiting[kind], 0
        jobs: list[_Job] = []
        now = time.monotonic()
        while queue and (not jobs or tokens + queue[0].tokens <= self.token_budget):
            job = queue.popleft()
            if job.future.done():
                self._metrics.dropped.labels("caller_gone").inc()
            elif job.deadline is not None and now > job.deadline:
                self._metrics.dropped.labels("deadline").inc()
                job.future.set_exception(TimeoutError("the deadline passed while the request waited"))
            else:
                jobs.append(job)
                tokens += job.tokens
        return kind, jobs

    async def _compute(self, kind: Kind, jobs: Sequence[_Job]) -> None:
        run: Callable[[Any], Batch[Any]] = self.engine.score if kind == "score" else self.engine.generate
        began = time.monotonic()
        self._computing = True
        try:
            batch = await asyncio.get_running_loop().run_in_executor(self._thread, run, [job.item for job in jobs])
        except Exception as error:
            self.failures_in_a_row += 1
            self._metrics.engine_failures.inc()
            log.error("the engine failed", kind=kind, requests=len(jobs), exc_info=True)
            for job in jobs:
                with contextlib.suppress(asyncio.InvalidStateError):
                    job.future.set_exception(EngineError(f"the engine failed: {type(error).__name__}: {error}"))
            return
        finally:
            self._computing = False
        self.failures_in_a_row = 0
        seconds = time.monotonic() - began
        tokens = sum(job.tokens for job in jobs)
        self._tokens_per_s = tokens / max(seconds, 1e-6)
        self._metrics.record_batch(kind, len(jobs), tokens, batch, seconds)
        for job, answer in zip(jobs, batch.answers, strict=True):
            if not job.future.done():
                job.future.set_result(Done(answer, began - job.arrived, seconds))
