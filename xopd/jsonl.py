"""JSON as people write it, read strictly; and files of one object a line, such as metrics.jsonl, read leniently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NOT_JSON = (ValueError, RecursionError)
"""What json.loads raises: not only for bad syntax, also for numbers too long and for nesting too deep."""


class RepeatedKeyError(ValueError):
    """An object that holds a key twice: which of the two is meant cannot be known."""

    def __init__(self, key: str, value: Any) -> None:
        """Hold the key with those above it, such as `audio.uri`, and the whole value as far as it can be known."""
        super().__init__(f"`{key}` stands twice; remove one of the two")
        self.key = key
        self.value = value


def loads_strict(text: str) -> Any:
    """Read JSON, and refuse what `json.loads` lets pass: a key twice in one object, NaN, and infinite numbers.

    Raises:
        RepeatedKeyError: for a key that stands twice, in whatever depth.
        ValueError: for what is no JSON; json.JSONDecodeError where the place is known.
        RecursionError: for nesting too deep.
    """
    repeated: list[_Repeated] = []

    def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        repeated.append(_Repeated(pairs))
        return repeated[-1]

    value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
    if repeated:
        raise RepeatedKeyError(_path_to(value), value)
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, in order; none where there is no file. A torn or foreign line is left out."""
    if not path.exists():
        return []
    found = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                value = json.loads(line)
            except NOT_JSON:
                continue
            if isinstance(value, dict):
                found.append(value)
    return found


class _Repeated(dict[str, Any]):
    """An object with the first value of each of its keys, and the first key that stood twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(reversed(pairs))
        seen: set[str] = set()
        self.key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]


def _path_to(value: Any) -> str:
    """Where the first object with a repeated key lies in `value`, and that key."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, here = waiting.pop()
        if isinstance(here, _Repeated):
            return f"{path}{here.key}"
        if isinstance(here, dict):
            waiting += [(f"{path}{key}.", below) for key, below in reversed(here.items())]
        elif isinstance(here, list):
            waiting += [(f"{path}{index}.", below) for index, below in reversed(list(enumerate(here)))]
    raise AssertionError("no key stands twice")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large")
    return value
