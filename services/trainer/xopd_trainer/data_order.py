"""Which items a step trains on: a seeded shuffle for each pass over the data, cut into batches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xopd.data import Item
from xopd.errors import UserError


class DataOrder:
    """The same seed and step always give the same items, so a resumed run goes on where it was."""

    def __init__(self, items: Sequence[Item], batch: int, seed: int) -> None:
        """Order `items` for steps of `batch` items.

        Raises:
            UserError: if there are fewer items than one batch needs.
        """
        if len(items) < batch:
            raise UserError(
                f"data.train_split has {len(items)} tasks, trainer.batch_prompts wants {batch} a step:"
                " add items or lower it."
            )
        self.items = list(items)
        self.batch = batch
        self.seed = seed
        # Steps come in order, so the newest pass is the one that is asked for again.
        self._order_of = lru_cache(maxsize=1)(self._shuffle)

    def items_of(self, step: int) -> list[Item]:
        """Items of step `step` (counted from 1); no item twice in one step."""
        per_pass = len(self.items) // self.batch
        passes, index = divmod(step - 1, per_pass)
        order = self._order_of(passes)
        return [self.items[i] for i in order[index * self.batch : (index + 1) * self.batch]]

    def _shuffle(self, passes: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, passes]).permutation(len(self.items))
