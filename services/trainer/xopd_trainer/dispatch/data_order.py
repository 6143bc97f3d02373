"""Which items a step trains on: a seeded shuffle for each pass over the data, the passes cut into batches end to end.

The order is a function of the seed and of the items' ids, not of their order in the manifest. A batch may begin with
the last items of a pass and end with the first of the next one; every pass holds each item once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xopd.checks.splits import assert_enough_items
from xopd.data import Item


class DataOrder:
    """The same seed and step always give the same items, so a resumed run goes on where it was."""

    def __init__(self, items: Sequence[Item], batch: int, seed: int) -> None:
        """Order `items` for steps of `batch` items.

        Raises:
            UserError: if there are fewer items than one batch needs.
        """
        assert_enough_items(len(items), batch)
        self.items = sorted(items, key=lambda item: item.id)
        self.batch = batch
        self.seed = seed
        self._newest: tuple[int, NDArray[np.int64]] = (0, self._shuffled(0))
        """The newest pass that was asked for, and its order: each depends on the one before it."""

    def items_of(self, step: int) -> list[Item]:
        """Items of step `step` (counted from 1); no item twice in one step."""
        found: list[Item] = []
        position = (step - 1) * self.batch
        while len(found) < self.batch:
            passes, start = divmod(position, len(self.items))
            taken = self._order_of(passes)[start : start + self.batch - len(found)]
            found += [self.items[i] for i in taken]
            position += len(taken)
        return found

    def _order_of(self, passes: int) -> NDArray[np.int64]:
        known, order = self._newest
        if passes < known:
            known, order = 0, self._shuffled(0)
        while known < passes:
            known += 1
            order = self._after(known, order)
        self._newest = known, order
        return order

    def _after(self, passes: int, before: NDArray[np.int64]) -> NDArray[np.int64]:
        """The order of a pass whose first batch begins with the last items of `before`: those come again later."""
        order = self._shuffled(passes)
        left_over = passes * len(self.items) % self.batch
        if left_over:
            room = self.batch - left_over
            waits = np.isin(order, before[-left_over:])
            first = order[~waits][:room]
            order = np.concatenate([first, order[~np.isin(order, first)]])
        return order

    def _shuffled(self, passes: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, passes]).permutation(len(self.items))
