"""The neutral structure of a table, from which every format is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Number:
    """A figure, with its sample standard deviation over seeds where it has several."""

    mean: float
    sd: float | None = None
    digits: int = 1
    signed: bool = False


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a difference."""

    low: float
    high: float


Value = str | Number | Interval | None
Kind = Literal["text", "number", "spread", "interval"]
"""What a column holds: text, one number, mean and standard deviation, or an interval."""


@dataclass(frozen=True)
class Column:
    """A column; `paper` marks the paper's own figures."""

    key: str
    heading: str
    kind: Kind
    paper: bool = False


@dataclass(frozen=True)
class Row:
    """A model's line; `name` is `teacher`, `base` or an entry's name."""

    name: str
    values: tuple[Value, ...]
    role: Literal["teacher", "base", "reference", "entry"] = "entry"


@dataclass(frozen=True)
class Table:
    """One table; the first column is the label."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
