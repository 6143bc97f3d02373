"""The reference responses of items, as token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xopd.data import Item
from xopd.errors import UserError
from xopd_trainer.conditionings import Conditionings
from xopd_trainer.methods.base import Response

DEFAULT = "response"


class Targets:
    """One response for each item."""

    def __init__(self, items: Sequence[Item], style: str, conditionings: Conditionings) -> None:
        """Tokenise the `style` of each item: `response`, or a name among its `targets`.

        Raises:
            UserError: if an item has no such response.
        """
        self._tokens = {item.id: conditionings.response(_text(item, style)) for item in items}

    def __getitem__(self, item_id: str) -> Response:
        """Token ids of the item's response, end-of-turn included."""
        return np.asarray(self._tokens[item_id], dtype=np.int64)


def _text(item: Item, style: str) -> str:
    text = item.response if style == DEFAULT else item.targets.get(style, "")
    if not text:
        known = [*([DEFAULT] if item.response else []), *sorted(item.targets)]
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(f"objective.target {style!r}: item {item.id} has no such response ({has}); correct either.")
    return text
