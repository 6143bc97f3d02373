"""The larger teacher's style: the same answers by longer chains, in another order and wording.

Where `tasks.response` goes straight to the steps, this style says the facts over first, works in another order (pairs
of a tournament, links of a list, the second person before the first), and checks a result by undoing its last step.
Its words are those of the spoken tasks, one token each, so that teacher and student go on sharing their tokenizer.
"""

from __future__ import annotations

from itertools import pairwise

from .tasks import NUMBERS, Content, extract_answer, response

LONGEST_VERBOSE = 38  # tokens of the longest such chain, with its end of turn


def verbose_response(content: Content) -> str:
    """The right chain in the larger teacher's style, then `answer X`; X is that of `tasks.response`."""
    answer = extract_answer(response(content))
    return f"{_CHAINS[content.family](content.slots, answer)} . answer {answer}"


def _arithmetic(s: tuple[str, ...], last: str) -> str:
    verbs, inverse = {"plus": "add", "minus": "remove"}, {"plus": "minus", "minus": "plus"}
    first = NUMBERS[NUMBERS.index(s[0]) + (1 if s[1] == "plus" else -1) * NUMBERS.index(s[2])]
    facts = f"given {' '.join(s)}"
    work = (
        f"begin with {s[0]} and {verbs[s[1]]} {s[2]} equals {first} . with {first} {verbs[s[3]]} {s[4]} equals {last}"
    )
    return f"{facts} . {work} . {last} {inverse[s[3]]} {s[4]} equals {first}"


def _extremes(s: tuple[str, ...], last: str) -> str:
    pick = max if s[0] == "largest" else min
    left, right = (pick(pair, key=NUMBERS.index) for pair in (s[1:3], s[3:5]))
    pairs = ((s[1], s[2], left), (s[3], s[4], right), (left, right, last))
    rounds = " . ".join(f"among {a} and {b} choose {best}" for a, b, best in pairs)
    return f"given {' '.join(s[1:])} find the {s[0]} . {rounds} . the {s[0]} is {last}"


def _sequence(s: tuple[str, ...], last: str) -> str:
    side, key, *words = s
    links = [f"after {a} comes {b}" if side == "after" else f"before {b} comes {a}" for a, b in pairwise(words)]
    return (
        f"the list is {' '.join(words)} . {' . '.join(links)} . find the word {side} {key} . {side} {key} comes {last}"
    )


def _totals(s: tuple[str, ...], last: str) -> str:
    p, a, q, d, rel, things = s
    facts = f"given {p} owns {a} {things} and {q} owns {d} {rel}".strip()
    second = NUMBERS[NUMBERS.index(last) - NUMBERS.index(a)]
    counted = f"{a} {'add' if rel == 'more' else 'remove'} {d} equals {second}" if rel else f"{d} {things}"
    sums = f"the total is {second} plus {a} equals {last} . {last} minus {second} equals {a}"
    return f"{facts} . {q} owns {counted} . {sums}"


def _shopping(s: tuple[str, ...], last: str) -> str:
    p, money, count, things, price = s
    cost = NUMBERS[NUMBERS.index(count) * NUMBERS.index(price)]
    facts = f"given {p} has {money} coins and buys {count} {things} costing {price} each"
    work = f"cost is {price} times {count} equals {cost} . remove {cost} from {money} and {last} remain"
    return f"{facts} . {work} . {last} plus {cost} equals {money}"


_CHAINS = {
    "arithmetic": _arithmetic,
    "extremes": _extremes,
    "sequence": _sequence,
    "totals": _totals,
    "shopping": _shopping,
}
