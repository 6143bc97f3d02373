"""The larger teacher's style: the answers of the first, true steps, words the tokenizer knows, and short enough."""

import random
import re

import pytest
from conftest import TINY
from tinyworld.tasks import FAMILIES, NUMBERS, extract_answer, response, sample_content, spoken_vocabulary
from tinyworld.tokens import TURN_END, load_tokenizer
from tinyworld.verbose import LONGEST_VERBOSE, verbose_response

WORD = {word: value for value, word in enumerate(NUMBERS)}
TEACHER = TINY / "checkpoints" / "teacher"


def contents(count: int = 5000):
    rng = random.Random(2)
    return [sample_content(FAMILIES[i % len(FAMILIES)], rng) for i in range(count)]


def test_the_answer_is_that_of_the_first_style_by_another_chain() -> None:
    for content in contents():
        chain, first = verbose_response(content), response(content)
        assert extract_answer(chain) == extract_answer(first)
        assert chain.endswith(f" . answer {extract_answer(first)}")
        assert chain.count("answer") == 1
        assert len(chain.split()) > len(first.split())
        steps, first_steps = (set(text.split(" . ")[:-1]) for text in (chain, first))
        assert not steps & first_steps


def test_every_step_of_every_chain_is_true() -> None:
    signs = {"plus": 1, "add": 1, "minus": -1, "remove": -1}
    for content in contents():
        chain = verbose_response(content)
        for a, op, b, c in re.findall(r"(\w+) (?:and )?(plus|minus|add|remove) (\w+) equals (\w+)", chain):
            assert WORD[a] + signs[op] * WORD[b] == WORD[c], chain
        for a, b, c in re.findall(r"(\w+) times (\w+) equals (\w+)", chain):
            assert WORD[a] * WORD[b] == WORD[c], chain
        for b, a, c in re.findall(r"remove (\w+) from (\w+) and (\w+) remain", chain):
            assert WORD[a] - WORD[b] == WORD[c], chain
        pick = max if "largest" in chain else min
        for a, b, c in re.findall(r"among (\w+) and (\w+) choose (\w+)", chain):
            assert WORD[c] == pick(WORD[a], WORD[b]), chain
        if content.family == "sequence":
            listed = list(content.slots[2:])
            for side, a, b in re.findall(r"(after|before) (\w+) comes (\w+)", chain):
                assert listed.index(b) - listed.index(a) == (1 if side == "after" else -1), chain


@pytest.mark.skipif(not (TEACHER / "tokenizer.json").exists(), reason="no tokenizer: python -m tinyworld train")
def test_words_are_spoken_words_of_one_token_and_chains_are_short() -> None:
    known = {*spoken_vocabulary(), ".", "times", "answer"}
    tokenizer = load_tokenizer(TEACHER)
    lengths = []
    for content in contents():
        chain = verbose_response(content)
        words = chain.split()
        assert set(words) <= known
        ids = tokenizer.encode(chain + TURN_END)
        assert len(ids) == len(words) + 1  # one token a word, and the end of turn
        lengths.append(len(ids))
    assert max(lengths) == LONGEST_VERBOSE == 38
