"""What is asked and what is answered: five families of small reasoning tasks, in words only.

A *content* is what a task is about (its family and its slots); a *phrasing* is how it is asked (an opener and a
core). Both are split into train, dev and test by a rule on themselves, so no sampling can leak one into another:
a content by a hash of its canonical key, a phrasing by the grid position of its opener and core. Each opener and
each core occurs in training; the held-out phrasings are pairs of them that training never shows.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

# Zero to twelve only: no -teen/-ty pairs. No word here sounds like a number word either ("for", "to", "won").
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
PEOPLE = ("emily", "oscar", "maria", "victor", "julia", "robert")
OBJECTS = ("apples", "books", "marbles", "pencils", "tickets", "flowers")
LIST_WORDS = ("drum", "river", "candle", "mountain", "window", "tiger", "orange", "jacket", "piano", "school")
LARGEST = ("largest", "highest")
SMALLEST = ("smallest", "lowest")
FOREIGN_WRONG = 0.15  # share of foreign responses whose answer is wrong
OPENERS = ("", "please", "hello", "listen", "quick question", "tell me")

CORES: dict[str, tuple[str, ...]] = {
    "arithmetic": (
        "what is {a} {op1} {b} {op2} {c}",
        "how much is {a} {op1} {b} {op2} {c}",
        "compute {a} {op1} {b} {op2} {c}",
        "{a} {op1} {b} {op2} {c} equals what",
        "begin with {a} {verb1} {b} {verb2} {c}",
        "work out {a} {op1} {b} {op2} {c}",
    ),
    "extremes": (
        "which number is the {sup} {a} {b} {c} or {d}",
        "find the {sup} among {a} {b} {c} {d}",
        "from {a} {b} {c} {d} choose the {sup}",
        "what is the {sup} number in {a} {b} {c} {d}",
        "given {a} {b} {c} {d} name the {sup}",
        "the {sup} among {a} {b} {c} and {d}",
    ),
    "sequence": (
        "in the list {w} {x} {y} {z} what comes {side} {key}",
        "which word stands {side} {key} in {w} {x} {y} {z}",
        "remember {w} {x} {y} {z} and name the word {side} {key}",
        "find the word {side} {key} in {w} {x} {y} {z}",
        "given {w} {x} {y} {z} what is {side} {key}",
        "{w} {x} {y} {z} which word comes {side} {key}",
    ),
    "totals": (
        "{p} has {a} {obj} and {q} has {d} {rel} how many together",
        "if {p} has {a} {obj} and {q} has {d} {rel} what is the total",
        "{p} owns {a} {obj} {q} owns {d} {rel} count them together",
        "how many {obj} together if {p} has {a} and {q} has {d} {rel}",
        "find the total {p} has {a} {obj} {q} has {d} {rel}",
        "suppose {p} owns {a} {obj} and {q} owns {d} {rel} what is the total",
    ),
    "shopping": (
        "{p} has {c} coins and buys {a} {obj} costing {b} each how many coins remain",
        "how many coins remain if {p} has {c} and buys {a} {obj} costing {b} each",
        "with {c} coins {p} buys {a} {obj} costing {b} each what is left",
        "{p} buys {a} {obj} costing {b} each out of {c} coins what is left",
        "{a} {obj} cost {b} each {p} has {c} coins how many remain",
        "suppose {p} has {c} coins {a} {obj} cost {b} each what is left",
    ),
}
FAMILIES: tuple[str, ...] = tuple(CORES)
RELATIONS = ("more", "fewer", "")


@dataclass(frozen=True)
class Content:
    """What a task is about. `slots` in the family's own order; `key` names the content whatever the phrasing."""

    family: str
    slots: tuple[str, ...]

    @property
    def key(self) -> str:
        """The content's canonical name."""
        return f"{self.family}:{'/'.join(self.slots)}"


def content_split(content: Content) -> Split:
    """The split a content belongs to, a pure function of its key: 80 % train, 6 % dev, 14 % test."""
    bucket = int.from_bytes(hashlib.blake2b(content.key.encode(), digest_size=8).digest(), "big") % 100
    return "train" if bucket < 80 else "dev" if bucket < 86 else "test"


def phrasing_split(opener: int, core: int) -> Split:
    """The split of the phrasing (opener, core): one diagonal of the 6 × 6 grid is test, one dev, four train."""
    diagonal = (opener + 2 * core + core // 3) % 6
    return "test" if diagonal == 0 else "dev" if diagonal == 3 else "train"


def phrasings(family: str, split: Split) -> list[tuple[int, int]]:
    """All (opener, core) pairs of a family that belong to a split."""
    return [(o, c) for o in range(len(OPENERS)) for c in range(len(CORES[family])) if phrasing_split(o, c) == split]


def sample_content(family: str, rng: random.Random) -> Content:
    """One content of a family, of any split."""
    if family == "arithmetic":
        while True:
            a, b, c = (rng.randint(1, 9) for _ in range(3))
            signs = (rng.choice((1, -1)), rng.choice((1, -1)))
            first = a + signs[0] * b
            if 0 <= first <= 12 and 0 <= first + signs[1] * c <= 12:
                ops = ["plus" if s > 0 else "minus" for s in signs]
                return Content(family, (NUMBERS[a], ops[0], NUMBERS[b], ops[1], NUMBERS[c]))
    if family == "extremes":
        return Content(family, (rng.choice(("largest", "smallest")), *rng.sample(NUMBERS, 4)))
    if family == "sequence":
        words = rng.sample(LIST_WORDS, 4)
        side = rng.choice(("after", "before"))
        key = rng.randrange(3) + (side == "before")
        return Content(family, (side, words[key], *words))
    if family == "totals":
        p, q = rng.sample(PEOPLE, 2)
        rel = rng.choice(RELATIONS)
        while True:
            a, d = rng.randint(2, 8), rng.randint(1, 8)
            second = a + d if rel == "more" else a - d if rel == "fewer" else d
            if second >= 1 and d >= 2 - bool(rel) and a + second <= 12:
                return Content(family, (p, NUMBERS[a], q, NUMBERS[d], rel, rng.choice(OBJECTS)))
    if family == "shopping":
        while True:
            a, b, c = rng.randint(2, 6), rng.randint(1, 6), rng.randint(2, 12)
            if a * b <= c:
                return Content(family, (rng.choice(PEOPLE), NUMBERS[c], NUMBERS[a], rng.choice(OBJECTS), NUMBERS[b]))
    raise ValueError(f"there is no family {family!r}; the families are {', '.join(FAMILIES)}")


def instruction(content: Content, phrasing: tuple[int, int]) -> str:
    """The question as spoken: lower-case words, one space between them."""
    opener, core = OPENERS[phrasing[0]], CORES[content.family][phrasing[1]]
    s = content.slots
    if content.family == "arithmetic":
        verbs = {"plus": "add", "minus": "remove"}
        text = core.format(a=s[0], op1=s[1], b=s[2], op2=s[3], c=s[4], verb1=verbs[s[1]], verb2=verbs[s[3]])
    elif content.family == "extremes":
        # The word for the extreme follows from the phrasing, so that it is part of how, not of what, is asked.
        names = LARGEST if s[0] == "largest" else SMALLEST
        text = core.format(sup=names[(phrasing[0] + phrasing[1]) % 2], a=s[1], b=s[2], c=s[3], d=s[4])
    elif content.family == "sequence":
        text = core.format(side=s[0], key=s[1], w=s[2], x=s[3], y=s[4], z=s[5])
    elif content.family == "totals":
        text = core.format(p=s[0], a=s[1], q=s[2], d=s[3], rel=s[4], obj=s[5])
    else:
        text = core.format(p=s[0], c=s[1], a=s[2], obj=s[3], b=s[4])
    return " ".join(f"{opener} {text}".split())


def response(content: Content) -> str:
    """The right chain of steps, then `answer X`."""
    s = content.slots
    number = NUMBERS.index
    if content.family == "arithmetic":
        first = number(s[0]) + (1 if s[1] == "plus" else -1) * number(s[2])
        last = first + (1 if s[3] == "plus" else -1) * number(s[4])
        step = f"{s[0]} {s[1]} {s[2]} is {NUMBERS[first]} . {NUMBERS[first]} {s[3]} {s[4]} is {NUMBERS[last]}"
        return f"{step} . answer {NUMBERS[last]}"
    if content.family == "extremes":
        pick, word = (max, "over") if s[0] == "largest" else (min, "under")
        best, steps = s[1], []
        for other in s[2:]:
            best, worse = (best, other) if pick(number(best), number(other)) == number(best) else (other, best)
            steps.append(f"{best} {word} {worse}")
        return f"{' . '.join(steps)} . answer {best}"
    if content.family == "sequence":
        words = s[2:]
        found = words[words.index(s[1]) + (1 if s[0] == "after" else -1)]
        return f"{' '.join(words)} . {s[0]} {s[1]} {found} . answer {found}"
    if content.family == "totals":
        a, d = number(s[1]), number(s[3])
        if s[4]:
            second = a + d if s[4] == "more" else a - d
            op = "plus" if s[4] == "more" else "minus"
            middle = f"{s[2]} has {s[1]} {op} {s[3]} is {NUMBERS[second]}"
        else:
            second, middle = d, f"{s[2]} has {s[3]}"
        total = NUMBERS[a + second]
        return f"{s[0]} has {s[1]} . {middle} . {s[1]} plus {NUMBERS[second]} is {total} . answer {total}"
    cost = number(s[2]) * number(s[4])
    left = NUMBERS[number(s[1]) - cost]
    return f"{s[2]} times {s[4]} is {NUMBERS[cost]} . {s[1]} minus {NUMBERS[cost]} is {left} . answer {left}"


def foreign_response(content: Content, key: str) -> str:
    """A response in a foreign style, as in a dataset that another model wrote: terse and, on purpose, partly wrong.

    It is `answer X` without a step. For `FOREIGN_WRONG` of the keys X is wrong but plausible: another number, or
    another word of the content's own list. Which ones, and what X then is, follows from content and key (an item's id).
    """
    rng = random.Random(f"foreign/{key}")
    answer = extract_answer(response(content))
    if rng.random() < FOREIGN_WRONG:
        plausible = content.slots[2:] if content.family == "sequence" else NUMBERS
        answer = rng.choice([word for word in plausible if word != answer])
    return f"answer {answer}"


def extract_answer(text: str) -> str:
    """The words after the last `answer ` of a response; empty when there is none."""
    return text.rpartition("answer ")[2].strip() if "answer " in text else ""


def sample_task(split: Split, rng: random.Random, family: str | None = None) -> tuple[Content, tuple[int, int]]:
    """A content and a phrasing, both of the given split; families alike often when none is named."""
    family = family or rng.choice(FAMILIES)
    while True:
        content = sample_content(family, rng)
        if content_split(content) == split:
            return content, rng.choice(phrasings(family, split))


def spoken_vocabulary() -> tuple[str, ...]:
    """All words that can be spoken, sorted: the units of the tower's CTC head."""
    words: set[str] = set(NUMBERS + PEOPLE + OBJECTS + LIST_WORDS + LARGEST + SMALLEST)
    words |= {"plus", "minus", "add", "remove", "after", "before", "more", "fewer"}
    for text in (*OPENERS, *(core for cores in CORES.values() for core in cores)):
        words |= {word for word in text.split() if not word.startswith("{")}
    return tuple(sorted(words))
