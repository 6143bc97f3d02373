"""The reference responses of items, as token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xopd.data import Item
from xopd.prompts.conditionings import Conditionings, target_text
from xopd_trainer.methods.base import Response


class Targets:
    """One response for each item."""

    def __init__(self, items: Sequence[Item], style: str, conditionings: Conditionings) -> None:
        """Take the `style` of each item: `response`, or a name among its `targets`.

        Raises:
            UserError: if an item has no such response.
        """
        for item in items:
            target_text(item, style)
        self._items = {item.id: item for item in items}
        self._style = style
        self._conditionings = conditionings

    def __getitem__(self, item_id: str) -> Response:
        """Token ids of the item's response, end-of-turn included.

        Raises:
            UnusablePromptError: if the tokenizer cannot write it as text.
        """
        return np.asarray(self._conditionings.target(self._items[item_id], self._style), dtype=np.int64)
