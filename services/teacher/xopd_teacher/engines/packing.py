"""How a batch is laid out: which prompts and which responses go through one forward pass together.

Sequences of like length stand together, so that little is spent on padding, and no pass exceeds the token budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from xopd_teacher.engines.base import Ids, ScoreItem

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Row:
    """One response: where it belongs, and which prompt of its pass it follows."""

    item: int
    response: int
    prompt: int
    tokens: Ids
    top_k: int


@dataclass(frozen=True)
class PromptPass:
    """Distinct prompts that share one forward pass, and the passes over the responses that follow them."""

    prompts: tuple[tuple[int, ...], ...]
    row_passes: tuple[tuple[Row, ...], ...]


def pack(items: Sequence[ScoreItem], token_budget: int) -> list[PromptPass]:
    """Lay out `items`: each distinct prompt once, each response once.

    A pass over prompts holds at most `token_budget` tokens, padding included. A pass over responses is counted with
    the repeated prompts' cache that it reads. A single sequence above the budget has a pass of its own.
    """
    by_prompt: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for index, item in enumerate(items):
        by_prompt.setdefault(item.prompt, []).extend((index, r) for r in range(len(item.responses)))
    passes = []
    for prompts in runs_within(list(by_prompt), len, 0, token_budget):
        rows = [
            Row(i, r, slot, items[i].responses[r], items[i].top_k)
            for slot, prompt in enumerate(prompts)
            for i, r in by_prompt[prompt]
        ]
        row_passes = runs_within(rows, lambda row: len(row.tokens), len(prompts[-1]), token_budget)
        passes.append(PromptPass(tuple(prompts), tuple(tuple(run) for run in row_passes)))
    return passes


def runs_within(
    things: Sequence[Thing], length_of: Callable[[Thing], int], beside: int, token_budget: int
) -> list[list[Thing]]:
    """Order by length and cut into runs with (longest length + `beside`) x count within the budget."""
    runs: list[list[Thing]] = []
    for thing in sorted(things, key=length_of):
        if not runs or (len(runs[-1]) + 1) * (length_of(thing) + beside) > token_budget:
            runs.append([])
        runs[-1].append(thing)
    return runs
