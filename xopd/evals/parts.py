"""The parts of an evaluation: which items are asked in which form, and the name that their score has everywhere.

Records, files, metrics and summary.json name scores by these. Another part is another line of PARTS.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from xopd.data.items import Item
from xopd.v1 import trajectory_pb2 as pb


@dataclass(frozen=True)
class Part:
    """Items of one kind, asked in one modality."""

    name: str
    kind: Literal["task", "retention"]
    """`kind` of the items, as the manifest has it."""
    modality: pb.Modality


PARTS = (
    Part("speech", "task", pb.MODALITY_SPEECH),
    Part("text", "task", pb.MODALITY_TEXT),
    Part("retention", "retention", pb.MODALITY_SPEECH),
)
"""What a student is asked. No two parts have both kind and modality in common."""
TEXT_PARTS = tuple(part for part in PARTS if part.modality == pb.MODALITY_TEXT)
"""What a model that only reads can be asked, such as the teacher."""


def first_of_each_kind(items: Iterable[Item], limit: int) -> list[Item]:
    """The first `limit` items of each kind that a part asks, kind by kind."""
    items = list(items)
    kinds = dict.fromkeys(part.kind for part in PARTS)
    return [each for kind in kinds for each in itertools.islice((i for i in items if i.kind == kind), limit)]
