"""One teacher pod as its client sees it: a channel, what is under way on it, and whether it is fit for calls."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xopd.errors import UserError
from xopd.files import EncodingError, read_text
from xopd.prompts.vocabulary import Vocabulary, describe_difference
from xopd.scoring.authentication import open_channel
from xopd.scoring.channel import client_options
from xopd.scoring.replicas import Reference, probe_of, probe_problem
from xopd.security import Credentials
from xopd.security.credentials import ENDPOINT_FILE
from xopd.v1 import teacher_pb2 as pb
from xopd.v1 import teacher_pb2_grpc
from xopd.wire import PROTOCOL

MOST_REQUESTS = 256
"""Calls under way on one pod at a time."""
MOST_BATCHES = 4
"""Work under way on one pod, in units of its token budget: enough to keep it busy, little enough to be answered
before the deadline."""


@dataclass(frozen=True)
class Endpoint:
    """host:port as configured; the host may be a name with several addresses."""

    host: str
    port: int

    def __str__(self) -> str:
        """As configured."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class EndpointFile:
    """A file that lists endpoints, one a line; who adds and removes pods writes it, and it is read again and again."""

    path: Path

    def __str__(self) -> str:
        """As configured."""
        return f"{ENDPOINT_FILE}{self.path}"

    def read(self) -> list[Endpoint]:
        """The endpoints that it lists now; empty lines and those that begin with # are left out.

        Raises:
            OSError: if it cannot be read.
            UserError: if a line is no host:port, or the file is not UTF-8.
        """
        try:
            lines = [line.strip() for line in read_text(self.path).splitlines()]
        except EncodingError as error:
            raise UserError(f"teacher.endpoints {self}: cannot be read: {error}.") from None
        return [parse_endpoint(line) for line in lines if line and not line.startswith("#")]


Source = Endpoint | EndpointFile
"""Where pods are found."""


def parse_source(text: str) -> Source:
    """Read an entry of teacher.endpoints: "host:port", or "file:PATH". Raises UserError if it is neither."""
    return (
        EndpointFile(Path(text.removeprefix(ENDPOINT_FILE))) if text.startswith(ENDPOINT_FILE) else parse_endpoint(text)
    )


def parse_endpoint(text: str) -> Endpoint:
    """Read "host:port" or "[v6 address]:port".

    Raises:
        UserError: if it is neither.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not host or (":" in host and not bracketed) or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"teacher.endpoints: {text!r} is no host:port, such as teacher.example:7100; correct it.")
    return Endpoint(host, int(port))


@dataclass
class Pod:
    """A pod at one address."""

    source: Source
    named: Endpoint
    """The endpoint behind which it stands, as configured."""
    address: str
    key: tuple[str, int]
    """The address as host and port."""
    channel: Any
    stub: Any
    info: pb.InfoResponse | None = None
    admitted: bool = False
    """Answered its last probe, and has not failed since."""
    problem: str = "not asked yet"
    """Why it is not admitted."""
    refusal: str | None = None
    """Why it must never be used, such as another vocabulary."""
    requests: int = 0
    tokens: int = 0
    calls: int = 0
    failures: int = 0
    scored_tokens: int = 0
    gone: bool = field(default=False)
    """No longer among the source's addresses."""

    def has_room(self, tokens: int) -> bool:
        """Whether a call of so many tokens may be sent now. An idle pod takes a call of any size."""
        assert self.info is not None
        most = MOST_BATCHES * self.info.limits.max_tokens_per_request
        return self.requests == 0 or (self.requests < MOST_REQUESTS and self.tokens + tokens <= most)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep its channel open while the block runs, also where it leaves its source meanwhile."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def take_info(
        self, info: pb.InfoResponse, student: Vocabulary | None, model: str | None, reference: Reference | None
    ) -> None:
        """Admit the pod, or note why it must not be used.

        It must have the student's vocabulary, serve `model`, and score as the pod does that `reference` tells of.
        """
        self.info = info
        self.refusal = self._refusal(info, student, model, reference)
        self.admitted = self.refusal is None
        self.problem = self.refusal or ""

    def describe(self) -> dict[str, Any]:
        """For the trainer's /status."""
        info = self.info
        return {
            "endpoint": self.address,
            "model": info.model if info else "",
            "engine": f"{info.engine} {info.engine_version}" if info else "",
            "ok": self.admitted,
            "problem": self.problem,
            "in_flight": self.requests,
            "calls": self.calls,
            "failures": self.failures,
            "scored_tokens": self.scored_tokens,
        }

    def _refusal(
        self, info: pb.InfoResponse, student: Vocabulary | None, model: str | None, reference: Reference | None
    ) -> str | None:
        if info.protocol < PROTOCOL:
            return f"speaks protocol {info.protocol}, this side {PROTOCOL}: upgrade it"
        difference = describe_difference(student, vocabulary_from(info)) if student is not None else None
        if difference:
            return f"{difference}; serve a teacher with the student's vocabulary"
        if model is not None and info.model != model:
            return f"serves {info.model}, this run's teacher is {model}: serve that one, or start anew"
        return probe_problem(probe_of(info, self.address), reference)


def open_pod(source: Source, named: Endpoint, key: tuple[str, int], credentials: Credentials) -> Pod:
    """A pod at a numeric address, not asked anything yet. Needs a running event loop.

    Args:
        source: where it was found.
        named: the endpoint behind which it stands. Its certificate must be good for that host.
        key: its address as host and port.
        credentials: the token that is shown, and whose certificates are trusted.
    """
    host, port = key
    family, shown = ("ipv6", f"[{host}]:{port}") if ":" in host else ("ipv4", f"{host}:{port}")
    channel = open_channel(f"{family}:{shown}", named.host, credentials, client_options())
    return Pod(source, named, shown, key, channel, teacher_pb2_grpc.LogprobServiceStub(channel))  # type: ignore[no-untyped-call]


def vocabulary_from(info: pb.InfoResponse) -> Vocabulary:
    """The vocabulary that a teacher told of itself."""
    return Vocabulary(
        info.vocabulary_size,
        info.vocabulary_fingerprint,
        tuple((token.text, token.token_id) for token in info.special_tokens),
        tuple(info.vocabulary_block_hashes),
    )


def numeric_addresses(found: list[tuple[Any, ...]]) -> list[tuple[str, int]]:
    """(address, port) pairs of a getaddrinfo answer, without duplicates, IPv4 first."""
    ordered = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return list(dict.fromkeys((str(entry[4][0]), int(entry[4][1])) for entry in ordered))
