"""What a run was begun with: its items, and the settings that its figures depend on. A resumed run must be of the same.

The order of the data, the base's evaluation and the teacher's responses all belong to the items as they were. A
manifest may be sorted anew or moved; an item that was changed, added or removed is found here and named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from xopd.config import Config
from xopd.config.checkpoints import checkpoint_name
from xopd.data.items import Item
from xopd.errors import UserError
from xopd.files import write_whole
from xopd.jsonl import read_json_lines

ITEMS = "items.jsonl"
SETTINGS = "settings.json"
FOLDER = "begun"
FIXED = (
    "run.seed",
    "data.train_split",
    "data.eval_split",
    "student.dtype",
    "learner.master_dtype",
    "trainer.batch_prompts",
    "objective.method",
    "objective.target",
    "evals.max_new_tokens",
    "evals.grader",
)
"""Settings that decide which items a step takes, what its weights are, or what a score means: they stay in a run."""
NEW_RUN = "begin a new run with --set run.name=NAME"
NAMED = 3
"""Changed items that a sentence names; the others are counted."""
DIGEST = 12
"""Hexadecimal digits kept of each field's hash."""


def write_begun(run: Path, config: Config, items: Iterable[Item]) -> None:
    """Note what the run in folder `run` is begun with."""
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_contents(folder / ITEMS, used_items(config, items))
    write_whole(folder / SETTINGS, json.dumps(_fixed(config), indent=1) + "\n")


def refuse_changes(run: Path, config: Config, items: Iterable[Item], else_: str = NEW_RUN) -> None:
    """Hold a run that goes on against what it was begun with.

    Args:
        run: its folder; a run that was begun before such notes were made is let through.
        config: with which it is to go on.
        items: likewise.
        else_: what a user may do instead of putting things back.

    Raises:
        UserError: naming the setting, or the first changed items and what of them changed.
    """
    folder = run / FOLDER
    if not (folder / SETTINGS).exists() or not (folder / ITEMS).exists():
        return
    before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    for name, now in _fixed(config).items():
        if name in before and before[name] != now:
            raise UserError(
                f"{run}: was begun with {name} {before[name]!r}, and is to go on with {now!r}; set it back, or {else_}."
            )
    change = describe_change(folder / ITEMS, used_items(config, items))
    if change is not None:
        raise UserError(
            f"{config.data.manifest}: {change} since {run} was begun; bring the manifest back as it was, or {else_}."
        )


def used_items(config: Config, items: Iterable[Item]) -> Iterator[Item]:
    """The items of the splits that a run uses."""
    data = config.data
    return (item for item in items if item.split in (data.train_split, data.eval_split, data.dev_split))


def item_fields(item: Item) -> dict[str, str]:
    """A digest of each field that a figure can depend on; where a clip lies does not count, its content does."""
    targets = {"response": item.response, **item.targets}
    values: dict[str, Any] = {
        "split": item.split,
        "kind": item.kind,
        "text": item.text,
        "audio": item.audio.sha256,
        "question": item.question,
        "answer": item.answer,
        "response": targets,
    }
    return {name: _digest(value) for name, value in values.items()}


def item_digest(item: Item, *more: Any) -> str:
    """One digest of an item's content, and of what else is asked with it."""
    return _digest([item.id, item_fields(item), *more])


def write_contents(path: Path, items: Iterable[Item]) -> None:
    """Write a line an item, by id."""
    lines = (json.dumps({"id": item.id, **item_fields(item)}) + "\n" for item in items)
    write_whole(path, "".join(sorted(lines)))


def describe_change(path: Path, items: Iterable[Item]) -> str | None:
    """What differs between the items of `write_contents` and `items`, as a clause; None where nothing does."""
    before = {str(record.pop("id", "")): record for record in read_json_lines(path)}
    now = {item.id: item_fields(item) for item in items}
    found = []
    for verb, ids in (("was added", now.keys() - before.keys()), ("was removed", before.keys() - now.keys())):
        found += [(item_id, verb) for item_id in ids]
    for item_id in before.keys() & now.keys():
        fields = [name for name, value in now[item_id].items() if before[item_id].get(name) != value]
        if fields:
            found.append((item_id, f"has another {' and '.join(fields)}"))
    if not found:
        return None
    named = [f"item {item_id} {what}" for item_id, what in sorted(found)[:NAMED]]
    more = f", and {len(found) - NAMED} more changed" if len(found) > NAMED else ""
    return f"{', '.join(named)}{more}"


def _fixed(config: Config) -> dict[str, Any]:
    tree = config.model_dump(by_alias=True, mode="json")
    at = {name: name.split(".") for name in FIXED}
    # Not every method has a target.
    fixed = {name: tree[section][key] for name, (section, key) in at.items() if key in tree[section]}
    # A checkpoint's folder may move; another name is another model.
    return {**fixed, **{f"{model}.path": checkpoint_name(tree[model]["path"]) for model in ("student", "teacher")}}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGEST]
