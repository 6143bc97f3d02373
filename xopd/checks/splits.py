"""Are there items to train on and to evaluate, and are they different ones?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from xopd.config import Config
from xopd.data.items import Item
from xopd.errors import UserError
from xopd.evals.graders.normal_form import written_alike


def check_splits(config: Config, items: Sequence[Item]) -> None:
    """Hold the splits against what a run takes from them.

    Raises:
        UserError: if a split has no task, or the one to train on has fewer than a step takes.
    """
    data = config.data
    have = Counter(item.split for item in items if item.kind == "task")
    wanted = [("data.train_split", data.train_split), ("data.eval_split", data.eval_split)]
    if config.evals.every:
        wanted.append(("data.dev_split", data.dev_split))
    for setting, split in wanted:
        if not have[split]:
            there = ", ".join(sorted({item.split for item in items}))
            raise UserError(f"{setting} {split!r}: {data.manifest} has no task of that split; it has {there}.")
    assert_enough_items(have[data.train_split], config.trainer.batch_prompts)


def assert_enough_items(tasks: int, batch_prompts: int) -> None:
    """Refuse fewer training items than one step takes. Raises UserError."""
    if tasks < batch_prompts:
        raise UserError(
            f"data.train_split has {tasks} tasks, trainer.batch_prompts wants {batch_prompts} a step:"
            " add items or lower it."
        )


def split_warnings(config: Config, items: Sequence[Item]) -> list[str]:
    """What makes a score say less than it seems to: the same items, or the same words, in two splits. Sentences."""
    data = config.data
    used = {"data.train_split": data.train_split, "data.eval_split": data.eval_split, "data.dev_split": data.dev_split}
    if not config.evals.every:
        del used["data.dev_split"]
    found = []
    settings = list(used)
    for first, second in ((a, b) for i, a in enumerate(settings) for b in settings[i + 1 :]):
        if used[first] == used[second]:
            found.append(f"{second} is {used[second]!r}, and so is {first}: {_meaning(first)}.")
    trained = frozenset(_texts(items, data.train_split))
    for setting in settings[1:]:
        if used[setting] != data.train_split:
            same = sum(text in trained for text in _texts(items, used[setting]))
            if same:
                found.append(
                    f"{setting} {used[setting]!r} has {same} tasks whose text is trained on as well: their scores tell"
                    " what was learnt by heart."
                )
    return found


def _meaning(first: str) -> str:
    if first == "data.train_split":
        return "its scores tell what was learnt by heart"
    return "a run is judged by the items that it is tuned by"


def _texts(items: Sequence[Item], split: str) -> list[str]:
    return [written_alike(item.text) for item in items if item.split == split and item.kind == "task" and item.text]
