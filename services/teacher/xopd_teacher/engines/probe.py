"""A fixed batch that every teacher scores at its start: replicas of one checkpoint must agree on it.

Its tokens depend on the vocabulary's size alone. A response first repeats its prompt, twice, then goes on with tokens
out of the blue: what is repeated a language model predicts well, so that rounding moves it little; what is not tells
different weights apart. Teachers of different versions compare their answers, so this file is part of the wire: another
batch needs another field in InfoResponse.
"""

from __future__ import annotations

import numpy as np

from xopd_teacher.engines.base import Engine, Floats, Ids, ScoreItem

PROMPTS, RESPONSES = 3, 2
REPEATED, NEW = 7, 4
"""Tokens of a prompt, and tokens of a response that were not in it."""
MULTIPLIER, MODULUS = 48271, 2**31 - 1
"""Lehmer's generator as C++ has it (minstd_rand): a few numbers that no library's next version changes."""


def probe_items(vocabulary_size: int) -> list[ScoreItem]:
    """The batch, for a vocabulary of so many ids."""
    state, drawn = 1, []
    for _ in range(PROMPTS * (REPEATED + RESPONSES * NEW)):
        state = state * MULTIPLIER % MODULUS
        drawn.append(state * vocabulary_size // MODULUS)
    rows = np.asarray(drawn, dtype=np.int64).reshape(PROMPTS, -1)
    return [_item(row[:REPEATED], row[REPEATED:].reshape(RESPONSES, NEW)) for row in rows]


def probe_logprobs(engine: Engine) -> Floats:
    """Log-probabilities of all tokens of the batch's responses, one after the other: [108], float32.

    Empty for an engine whose context is shorter than the batch's sequences: it is not compared.
    """
    if engine.info.max_context_tokens < 3 * REPEATED + NEW:
        return np.empty(0, dtype=np.float32)
    answers = engine.score(probe_items(engine.info.vocabulary.size)).answers
    return np.concatenate([score.logprobs for answer in answers for score in answer])


def _item(prompt: Ids, new: Ids) -> ScoreItem:
    responses = tuple(np.concatenate([prompt, prompt, row]) for row in new)
    return ScoreItem(tuple(prompt.tolist()), responses)
