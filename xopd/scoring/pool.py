"""All teacher pods: found by name or in a file, admitted by probe, chosen by least work under way, ejected on failure.

Invariants:
- A pod takes calls only after it answered Info with the right vocabulary, and again only so after each failure.
- All pods serve one model and give the scores of the first that was admitted: a run has one teacher.
- A pod that a name no longer points to, or a file no longer lists, is finished, not cut off.
- Nobody waits for a pod longer than `retry_limit_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Collection, Sequence

import grpc
import structlog

from xopd.errors import UserError
from xopd.prompts.vocabulary import Vocabulary
from xopd.scoring.authentication import REJECTED
from xopd.scoring.errors import TeacherUnreachableError
from xopd.scoring.pods import Endpoint, EndpointFile, Pod, Source, numeric_addresses, open_pod
from xopd.scoring.replicas import Reference, probe_of
from xopd.security import Credentials
from xopd.security.diagnosis import tls_trouble
from xopd.v1 import teacher_pb2 as pb

log = structlog.get_logger(__name__)
RESOLVE_EVERY_S = 10.0
RESOLVE_AGAIN_S = 1.0
"""Between lookups while a name has no address."""
READ_EVERY_S = 1.0
"""Between two readings of a file of endpoints."""
PROBE_EVERY_S = 10.0
PROBE_TIMEOUT_S = 5.0
FIRST_PROBE_BACK_OFF_S, LONGEST_PROBE_BACK_OFF_S = 0.2, 2.0
NO_CREDENTIALS = Credentials()
STRAGGLERS_S = 10.0
"""How long a start waits for the other endpoints once one has answered."""


class PodPool:
    """The pods of some sources. Use as an async context manager."""

    def __init__(
        self, sources: Sequence[Source], retry_limit_s: float, credentials: Credentials = NO_CREDENTIALS
    ) -> None:
        """Connect to nothing yet."""
        self.sources = sources
        self.credentials = credentials
        self.retry_limit_s = retry_limit_s
        self.student: Vocabulary | None = None
        self.model: str | None = None
        """What every pod must serve: the model of the first that was admitted with the student's vocabulary."""
        self.reference: Reference | None = None
        """How every pod must score: as the first of these that tells it."""
        self._pods: dict[tuple[str, int], Pod] = {}
        self._lookup_problems: dict[Source, str] = dict.fromkeys(sources, "not looked up yet")
        self._changed = asyncio.Condition()
        self._failed: dict[str, asyncio.Event] = {}
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self._without_since = time.monotonic()

    async def __aenter__(self) -> PodPool:
        """Begin to look up sources and to probe pods."""
        for source in self.sources:
            self._tasks[source] = asyncio.create_task(self._follow(source))
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all tasks and channels."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for pod in self._pods.values():
            await pod.channel.close()

    @property
    def pods(self) -> list[Pod]:
        """The pods that names and files point to now, by address."""
        return sorted((pod for pod in self._pods.values() if not pod.gone), key=lambda pod: pod.address)

    @contextlib.asynccontextmanager
    async def borrowed(self, tokens: int, avoid: Collection[str]) -> AsyncIterator[Pod]:
        """A pod for one call of so many tokens, the least busy one; one of `avoid` (addresses) only for want of others.

        Raises:
            TeacherUnreachableError: if there was none within `retry_limit_s`.
            UserError: if every pod has another vocabulary or protocol, or is no replica of the first.
        """
        pod = await self._acquire(tokens, avoid)
        try:
            yield pod
        finally:
            pod.requests -= 1
            pod.tokens -= tokens
            async with self._changed:
                self._changed.notify_all()

    def has_other(self, avoid: Collection[str]) -> bool:
        """Whether a pod outside `avoid` takes calls."""
        return any(pod.admitted and pod.address not in avoid for pod in self.pods)

    def eject(self, pod: Pod, reason: str) -> None:
        """Take a pod out until it answers a probe again."""
        pod.failures += 1
        self._dismiss(pod, reason)
        self._failed[pod.address].set()

    async def limits(self) -> pb.Limits:
        """The strictest limits among the admitted pods. Raises as `borrowed` does."""
        async with self._changed:
            began = time.monotonic()
            while not (known := [pod.info.limits for pod in self.pods if pod.admitted and pod.info is not None]):
                await self._wait(began)
        strictest = pb.Limits()
        for field in pb.Limits.DESCRIPTOR.fields:
            setattr(strictest, field.name, min(getattr(limits, field.name) for limits in known))
        return strictest

    async def admit_only(self, student: Vocabulary) -> None:
        """From now on admit only pods with this vocabulary; returns once the pods have been asked.

        Raises:
            UserError: if a pod has another one, naming the difference, or if two serve different models or weights.
            TeacherUnreachableError: if none answers within `retry_limit_s`.
        """
        self.student = student
        for pod in self.pods:
            if pod.info is not None and pod.admitted:
                self._take_info(pod, pod.info)
        began = time.monotonic()
        async with self._changed:
            while True:
                for pod in self.pods:
                    if pod.refusal is not None:
                        raise UserError(f"teacher {pod.address}: {pod.refusal}.")
                answered = {pod.source for pod in self.pods if pod.admitted}
                asked_all = all(pod.problem != Pod.problem for pod in self.pods)
                if answered == set(self.sources) and asked_all:
                    return
                if answered and time.monotonic() - began > STRAGGLERS_S:
                    missing = sorted(str(source) for source in set(self.sources) - answered)
                    log.warning("going on without some teachers", missing=missing, problems=self.problems())
                    return
                await self._wait(began)

    async def _acquire(self, tokens: int, avoid: Collection[str]) -> Pod:
        began = time.monotonic()
        async with self._changed:
            while True:
                free = [pod for pod in self.pods if pod.admitted and pod.has_room(tokens)]
                if free:
                    best = min(free, key=lambda p: (p.address in avoid, p.tokens, p.requests, random.random()))
                    best.requests += 1
                    best.tokens += tokens
                    best.calls += 1
                    return best
                await self._wait(began)

    async def _wait(self, began: float) -> None:
        """Wait, for a second at most, for a change; give up when there has been no pod for too long since `began`."""
        if self.pods and all(pod.refusal is not None for pod in self.pods):
            raise UserError(f"teacher {self.pods[0].address}: {self.pods[0].refusal}.")
        without = time.monotonic() - max(began, self._without_since)
        if not self.has_other(()) and without > self.retry_limit_s:
            raise TeacherUnreachableError(
                f"teacher.endpoints: no teacher answered within {self.retry_limit_s:g} s ({self.problems()});"
                " start it, or correct the address."
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):  # not wait_for, which in Python 3.11 can lose a cancellation
                await self._changed.wait()

    def _take_info(self, pod: Pod, info: pb.InfoResponse) -> None:
        before = pod.refusal
        pod.take_info(info, self.student, self.model, self.reference)
        if pod.refusal is not None and pod.refusal != before:
            log.warning("teacher refused", pod=pod.address, reason=pod.refusal)
        if pod.admitted and self.student is not None:
            self.model = self.model or info.model
            self.reference = self.reference or probe_of(info, pod.address)

    def problems(self) -> str:
        """Why names and pods cannot be used, as one clause."""
        names = [f"{source}: {problem}" for source, problem in self._lookup_problems.items() if problem]
        return "; ".join([*names, *(f"{pod.address}: {pod.problem}" for pod in self.pods if pod.problem)])

    def _dismiss(self, pod: Pod, reason: str) -> None:
        pod.problem = reason
        if pod.admitted:
            pod.admitted = False
            log.warning("teacher ejected", pod=pod.address, reason=reason)
            if not self.has_other(()):
                self._without_since = time.monotonic()

    async def _follow(self, source: Source) -> None:
        """Look a source's addresses up, again and again."""
        every_s = READ_EVERY_S if isinstance(source, EndpointFile) else RESOLVE_EVERY_S
        while True:
            try:
                addresses = await _addresses(source, self.credentials)
            except (OSError, UserError) as error:
                # The pods known so far stay: a name server's outage is not theirs.
                self._lookup_problems[source] = _lookup_problem(source, error)
            else:
                self._lookup_problems[source] = "" if addresses else "lists no endpoint"
                await self._take_addresses(source, addresses)
            missing = not any(pod.source == source for pod in self.pods)
            await asyncio.sleep(RESOLVE_AGAIN_S if missing else every_s)

    async def _take_addresses(self, source: Source, addresses: dict[tuple[str, int], Endpoint]) -> None:
        for key, named in addresses.items():
            pod = self._pods.get(key)
            if pod is None:
                pod = self._pods[key] = open_pod(source, named, key, self.credentials)
                self._failed[pod.address] = asyncio.Event()
                self._tasks[key] = asyncio.create_task(self._watch(pod))
            pod.gone = False
        for key, pod in list(self._pods.items()):
            if pod.source == source and key not in addresses:
                pod.gone = True
                if pod.requests == 0:
                    self._tasks.pop(key).cancel()
                    del self._pods[key]
                    await pod.channel.close()

    async def _watch(self, pod: Pod) -> None:
        """Probe a pod: now and then while it works, soon and with a growing pause while it does not."""
        failed, pause = self._failed[pod.address], FIRST_PROBE_BACK_OFF_S
        while True:
            failed.clear()
            try:
                info = await pod.stub.Info(pb.InfoRequest(), timeout=PROBE_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                pod.refusal = REJECTED if error.code() is grpc.StatusCode.UNAUTHENTICATED else None
                self._dismiss(pod, pod.refusal or await self._reason(pod, error))
            else:
                # A failure during the probe counts: the answer may be older than it.
                if not failed.is_set():
                    self._take_info(pod, info)
            async with self._changed:
                self._changed.notify_all()
            if pod.admitted:
                pause = FIRST_PROBE_BACK_OFF_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_EVERY_S):
                        await failed.wait()
            if not pod.admitted:
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))
                pause = min(2 * pause, LONGEST_PROBE_BACK_OFF_S)

    async def _reason(self, pod: Pod, error: grpc.aio.AioRpcError) -> str:
        """Why a probe failed; where TLS is to blame, what gRPC does not say."""
        credentials, trouble = self.credentials, None
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            shown = credentials.certificate if credentials.mutual else None
            trouble = await tls_trouble(
                *pod.key,
                name=pod.named.host,
                authorities=credentials.authorities,
                setting="security.tls_ca",
                certificate=(shown.chain, shown.key) if shown is not None else None,
            )
        return trouble or describe_status(error)


async def _addresses(source: Source, credentials: Credentials) -> dict[tuple[str, int], Endpoint]:
    """Numeric addresses of a source's pods, each with the endpoint that it stands behind.

    Raises:
        OSError: if a name cannot be resolved, or the file not be read.
        UserError: for a file's line that is no endpoint, or one on another machine without token and TLS.
    """
    endpoints = source.read() if isinstance(source, EndpointFile) else [source]
    far = [
        endpoint
        for endpoint in endpoints
        if isinstance(source, EndpointFile) and not credentials.may_call(endpoint.host)
    ]
    if far:
        raise UserError(
            f"{far[0]} is not loopback, and security.token and security.tls_ca are not both set"
            " (docs/SECURITY.md says how)."
        )
    loop = asyncio.get_running_loop()
    found: dict[tuple[str, int], Endpoint] = {}
    for endpoint in endpoints:
        answer = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        found |= dict.fromkeys(numeric_addresses(answer), endpoint)
    return found


def _lookup_problem(source: Source, error: OSError | UserError) -> str:
    if isinstance(error, UserError):
        return str(error).rstrip(".")
    what = "a name" if isinstance(source, EndpointFile) else "the name"
    return (
        f"{what} cannot be resolved ({error.strerror})"
        if isinstance(error, socket.gaierror)
        else f"cannot be read ({error.strerror})"
    )


def describe_status(error: grpc.aio.AioRpcError) -> str:
    """A gRPC failure as a clause."""
    code = error.code().name.lower().replace("_", " ")
    details = (error.details() or "").strip().splitlines()
    return f"{code}, {details[0].rstrip('.')}" if details else code
