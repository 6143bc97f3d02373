"""Tasks: the splits cannot leak, the chains are right, the words are the tower's."""

import random
import re

from tinyworld.tasks import (
    FAMILIES,
    FOREIGN_WRONG,
    NUMBERS,
    OPENERS,
    SPLITS,
    content_split,
    extract_answer,
    foreign_response,
    instruction,
    phrasings,
    response,
    sample_content,
    sample_task,
    spoken_vocabulary,
)

WORD = {word: value for value, word in enumerate(NUMBERS)}


def tasks(count: int = 2000):
    rng = random.Random(1)
    return [sample_task(SPLITS[i % 3], rng, FAMILIES[i % len(FAMILIES)]) for i in range(count)]


def test_contents_belong_to_one_split_by_a_rule_on_themselves() -> None:
    rng = random.Random(0)
    seen: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for _ in range(1500):
            content, _phrasing = sample_task(split, rng)
            assert content_split(content) == split
            seen[split].add(content.key)
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["dev"]
    assert not seen["dev"] & seen["test"]


def test_phrasings_partition_the_grid_and_training_shows_every_opener_and_core() -> None:
    for family in FAMILIES:
        parts = [set(phrasings(family, split)) for split in SPLITS]
        assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts)) == 36
        for split_part in parts[:1]:
            assert {opener for opener, _ in split_part} == set(range(len(OPENERS)))
            assert {core for _, core in split_part} == set(range(6))
        assert len(parts[1]) >= 6
        assert len(parts[2]) >= 6


def test_every_step_of_every_chain_is_true() -> None:
    for content, _phrasing in tasks():
        chain = response(content)
        for a, op, b, c in re.findall(r"(\w+) (plus|minus|times) (\w+) is (\w+)", chain):
            values = {"plus": WORD[a] + WORD[b], "minus": WORD[a] - WORD[b], "times": WORD[a] * WORD[b]}
            assert values[op] == WORD[c], chain
        for a, relation, b in re.findall(r"(\w+) (over|under) (\w+)", chain):
            assert (WORD[a] > WORD[b]) == (relation == "over"), chain


def test_answers_by_recomputation_from_the_question_alone() -> None:
    for content, phrasing in tasks():
        words = instruction(content, phrasing).split()
        numbers = [WORD[w] for w in words if w in WORD]
        answer = extract_answer(response(content))
        if content.family == "arithmetic":
            signs = [1 if w in ("plus", "add") else -1 for w in words if w in ("plus", "add", "minus", "remove")]
            assert WORD[answer] == numbers[0] + signs[0] * numbers[1] + signs[1] * numbers[2]
        elif content.family == "extremes":
            pick = max if {"largest", "highest"} & set(words) else min
            assert WORD[answer] == pick(numbers)
        elif content.family == "totals":
            first, difference = numbers
            second = first + difference if "more" in words else first - difference if "fewer" in words else difference
            assert WORD[answer] == first + second
        elif content.family == "sequence":
            side = "after" if "after" in words else "before"
            listed, key = list(content.slots[2:]), words[words.index(side) + 1]
            assert " ".join(listed) in " ".join(words)
            assert answer == listed[listed.index(key) + (1 if side == "after" else -1)]
        else:
            money, count, price = (WORD[content.slots[slot]] for slot in (1, 2, 4))
            assert sorted(numbers) == sorted([money, count, price])
            assert WORD[answer] == money - count * price


def test_words_are_lower_case_spoken_words_and_chains_are_short() -> None:
    vocabulary = set(spoken_vocabulary())
    for content, phrasing in tasks():
        assert set(instruction(content, phrasing).split()) <= vocabulary
        chain = response(content).split()
        assert 8 <= len(chain) <= 21
    assert not vocabulary & {"for", "to", "too", "won", "ate", "thirteen", "thirty"}


def test_foreign_responses_are_terse_and_partly_wrong_but_plausible() -> None:
    wrong = 0
    sampled = tasks(4000)
    for number, (content, _phrasing) in enumerate(sampled):
        text, right = foreign_response(content, f"item-{number}"), extract_answer(response(content))
        given = extract_answer(text)
        assert text == f"answer {given}"
        assert given in (content.slots[2:] if content.family == "sequence" else NUMBERS)
        wrong += given != right
    assert abs(wrong / len(sampled) - FOREIGN_WRONG) < 0.02


def test_foreign_responses_follow_from_content_and_key() -> None:
    content = tasks(1)[0][0]
    by_key = [foreign_response(content, f"item-{n}") for n in range(200)]
    assert by_key == [foreign_response(content, f"item-{n}") for n in range(200)]
    assert len(set(by_key)) > 2


def test_the_answer_is_what_follows_the_last_answer() -> None:
    assert extract_answer("answer two . answer nine") == "nine"
    assert extract_answer("two plus two is four") == ""


def test_families_draw_what_they_say() -> None:
    rng = random.Random(4)
    assert {sample_content(f, rng).family for f in FAMILIES} == set(FAMILIES)
