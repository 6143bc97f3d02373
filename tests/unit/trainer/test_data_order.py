"""Which items a step takes: each pass holds every item once, whatever the batch and the manifest's order are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xopd_trainer.dispatch.data_order import DataOrder

from xopd.data import AudioFile, Item
from xopd.errors import UserError

AUDIO = AudioFile(uri="clip.flac", sha256="0" * 64, seconds=1.0, sample_rate=16000)


def items(count: int) -> list[Item]:
    return [Item(id=f"i{n:03}", family="f", split="train", text="t", audio=AUDIO, answer="a") for n in range(count)]


@settings(deadline=None)
@given(st.integers(1, 12).flatmap(lambda batch: st.tuples(st.just(batch), st.integers(batch, 30))), st.integers(0, 5))
def test_every_pass_holds_every_item_once_and_no_step_one_twice(sizes, seed) -> None:
    batch, count = sizes
    order = DataOrder(items(count), batch, seed)
    steps = [[item.id for item in order.items_of(step)] for step in range(1, 3 * count + 1)]
    assert all(len(set(step)) == batch for step in steps)
    taken = [item_id for step in steps for item_id in step]
    for begin in range(0, len(taken) - count + 1, count):
        assert len(set(taken[begin : begin + count])) == count


def test_an_incomplete_last_batch_is_filled_from_the_next_pass() -> None:
    order = DataOrder(items(64), 10, seed=0)
    taken = [item.id for step in range(1, 33) for item in order.items_of(step)]
    assert len(taken) == 320
    assert all(taken.count(item.id) == 5 for item in order.items)


def test_the_order_of_the_manifest_does_not_matter_and_the_seed_does() -> None:
    sorted_, shuffled = items(64), items(64)
    random.Random(1).shuffle(shuffled)
    first, second, other = DataOrder(sorted_, 10, 0), DataOrder(shuffled, 10, 0), DataOrder(sorted_, 10, 1)
    steps = range(1, 30)
    assert [first.items_of(s) for s in steps] == [second.items_of(s) for s in steps]
    assert [first.items_of(s) for s in steps] != [other.items_of(s) for s in steps]


def test_a_resumed_run_goes_on_where_it_was() -> None:
    order = DataOrder(items(17), 4, 3)
    steps = [order.items_of(step) for step in range(1, 40)]
    for step in (39, 1, 22, 7):
        assert DataOrder(items(17), 4, 3).items_of(step) == steps[step - 1]
        assert order.items_of(step) == steps[step - 1]


def test_fewer_items_than_a_batch_are_a_sentence() -> None:
    with pytest.raises(UserError, match=r"data.train_split has 3 tasks, trainer.batch_prompts wants 4 a step"):
        DataOrder(items(3), 4, 0)
