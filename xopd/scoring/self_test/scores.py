"""Does a pod give the same scores however it is asked: twice, in another order, one by one, after similar prompts?

Scores that change so come from caches that mix requests up, from a proxy before different teachers, or from a model
with dropout left on: training would follow noise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xopd.errors import UserError
from xopd.scoring.self_test.asking import Asking, Ids, Scores
from xopd.scoring.self_test.findings import Check, Finding


@dataclass(frozen=True)
class Apart:
    """How far two readings of the same tokens are apart (nats)."""

    mean: float
    largest: float

    def __str__(self) -> str:
        """Both figures."""
        return f"{self.mean:.3g} nats in the mean and {self.largest:.3g} at most"

    def within(self, most: Apart) -> bool:
        """Whether neither figure exceeds that of `most`."""
        return self.mean <= most.mean and self.largest <= most.largest


EXACT, ROUGH = Apart(1e-3, 0.05), Apart(0.05, 2.0)
"""What rounding may make of the same request: in float32, and in bfloat16 or an unknown format. Which requests share a
batch decides in which order a card adds; in bfloat16 that moves single log-probabilities by some tenths, the mean by a
few hundredths."""


@dataclass(frozen=True)
class Question:
    """A prompt, and responses to it."""

    prompt: Ids
    responses: Sequence[Ids]


async def read_together(asking: Asking, questions: Sequence[Question]) -> list[Scores]:
    """All questions at once, as a trainer asks them."""
    return list(await asyncio.gather(*(asking.scores(q.prompt, q.responses) for q in questions)))


async def check_scores(asking: Asking, questions: Sequence[Question], together: Sequence[Scores]) -> list[Finding]:
    """Ask the same again in several ways.

    Args:
        asking: asks the pod.
        questions: at least one.
        together: what `read_together` gave for them.

    Raises:
        PodAwayError: if the pod goes away meanwhile.
        UserError: if its scores differ by more than rounding.
    """
    most = EXACT if asking.info.dtype == "float32" else ROUGH
    first = questions[0]
    once, again = [await asking.scores(first.prompt, first.responses) for _ in range(2)]
    repeated = _held_to(most, asking, "the same request, asked twice,", apart([once], [again]))

    backwards = [await asking.scores(q.prompt, q.responses[::-1]) for q in questions[::-1]]
    opposite = apart(together, [scores[::-1] for scores in backwards[::-1]])
    _held_to(most, asking, "the same responses, in the opposite order,", opposite)

    alone = [[(await asking.scores(q.prompt, [r]))[0] for r in q.responses] for q in questions[:2]]
    singly = apart(together[:2], alone)
    _held_to(most, asking, "the same responses, one request each,", singly)

    other = _beginning_alike(questions)
    await asking.scores(other.prompt, other.responses)
    alike = apart([together[0]], [await asking.scores(first.prompt, first.responses)])
    _held_to(most, asking, "the same request, after a prompt that begins alike,", alike)

    moved = await _moved(asking, first, together[0])
    _held_to(most, asking, "the same tokens, some of them moved from the response to the prompt,", moved)

    order = max((opposite, singly, alike, moved), key=lambda found: found.mean)
    return [
        _finding(asking, "repeated", repeated, "the same request, asked twice, differs by"),
        _finding(
            asking, "order", order, "the same responses in another order, alone and after similar prompts differ by"
        ),
    ]


def apart(one: Sequence[Scores], other: Sequence[Scores]) -> Apart:
    """How far two readings of the same questions are apart, over all their tokens."""
    a, b = (
        np.concatenate([np.concatenate(scores) for scores in reading]).astype(np.float64) for reading in (one, other)
    )
    return Apart(float(np.abs(a - b).mean()), float(np.abs(a - b).max()))


def _beginning_alike(questions: Sequence[Question]) -> Question:
    """A question whose prompt begins as the first one's does, and goes on otherwise."""
    first, last = questions[0], questions[-1]
    half = max(1, len(first.prompt) // 2)
    return Question([*first.prompt[:half], *last.prompt[-half:][::-1]], last.responses[:1])


async def _moved(asking: Asking, question: Question, expected: Scores) -> Apart:
    """Give the first half of each response as part of the prompt: the rest must score as it did.

    A cache that takes the longer prompt for the shorter one is found so, whichever of them it holds.
    """
    longer = [
        (response, len(response) // 2, scores) for response, scores in zip(question.responses, expected, strict=True)
    ]
    pairs = [
        (scores[at:], (await asking.scores([*question.prompt, *response[:at]], [response[at:]]))[0])
        for response, at, scores in longer
        if at
    ]
    return apart([[scores for scores, _ in pairs]], [[scores for _, scores in pairs]]) if pairs else Apart(0.0, 0.0)


def _held_to(most: Apart, asking: Asking, asked: str, found: Apart) -> Apart:
    if found.within(most):
        return found
    raise UserError(
        f"teacher {asking.pod.address}: {asked} got log-probabilities that differ by {found}; {most} may be rounding"
        f" ({asking.info.dtype or 'number format unknown'}): switch its prefix caching off, put no proxy before"
        " different teachers, or serve another engine."
    )


def _finding(asking: Asking, check: Check, found: Apart, what: str) -> Finding:
    return Finding(asking.pod.address, check, "ok", found.mean, f"{what} {found}")
