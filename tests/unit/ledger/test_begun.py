"""What a resumed run is held against: its items by their content, and the settings that its figures depend on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from xopd.config import Config
from xopd.data import AudioFile, Item
from xopd.errors import UserError
from xopd.ledger.begun import item_digest, refuse_changes, write_begun


def make_item(n: int, **fields: Any) -> Item:
    audio = AudioFile(uri=f"/clips/{n}.flac", sha256=f"{n:064x}", seconds=1.0, sample_rate=16000)
    base = {"id": f"i{n:02}", "family": "f", "split": "train", "text": f"say {n}", "audio": audio, "answer": str(n)}
    return Item(**{**base, "response": f"it is {n}", **fields})


ITEMS = [make_item(n, split=("train", "dev", "test")[n % 3]) for n in range(9)]


def config(**sections: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {"data": {"manifest": "items.jsonl"}, "student": {"path": "s"}, "teacher": {"path": "t"}}
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    return Config.model_validate(tree)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    write_begun(tmp_path, config(), ITEMS)
    return tmp_path


def changed(n: int, **fields: Any) -> list[Item]:
    return [item.model_copy(update=fields) if item.id == f"i{n:02}" else item for item in ITEMS]


def test_a_manifest_that_is_sorted_anew_or_moved_is_the_same(begun) -> None:
    again = [
        item.model_copy(update={"audio": item.audio.model_copy(update={"uri": f"/elsewhere{item.audio.uri}"})})
        for item in ITEMS
    ]
    random.Random(0).shuffle(again)
    refuse_changes(begun, config(), again)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (changed(2, answer="three"), "item i02 has another answer since"),
        (changed(0, text="say 100"), "item i00 has another text since"),
        (changed(0, question="how loud"), "item i00 has another question since"),
        (changed(0, response="no"), "item i00 has another response since"),
        (changed(0, targets={"foreign": "x"}), "item i00 has another response since"),
        (changed(0, audio=ITEMS[1].audio), "item i00 has another audio since"),
        (changed(0, split="test"), "item i00 has another split since"),
        (changed(0, text="x", answer="y"), "item i00 has another text and answer since"),
        (ITEMS[1:], "item i00 was removed since"),
        ([*ITEMS, make_item(99)], "item i99 was added since"),
        (
            [make_item(n, answer="x", split=("train", "dev", "test")[n % 3]) for n in range(9)],
            "and 6 more changed since",
        ),
    ],
)
def test_a_changed_item_is_named(begun, items, words) -> None:
    with pytest.raises(UserError, match=words) as refused:
        refuse_changes(begun, config(), items)
    assert "items.jsonl: " in str(refused.value)
    assert "bring the manifest back as it was" in str(refused.value)


def test_items_that_the_run_does_not_use_may_change(begun) -> None:
    refuse_changes(begun, config(), [*ITEMS, make_item(50, split="spare")])


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("run", "seed", 1),
        ("data", "train_split", "dev"),
        ("data", "eval_split", "dev"),
        ("trainer", "batch_prompts", 8),
        ("objective", "method", "sft"),
        ("student", "dtype", "bfloat16"),
        ("evals", "max_new_tokens", 47),
        ("evals", "grader", "exact_match"),
        ("teacher", "path", "/models/other"),
        ("student", "path", "/models/other"),
    ],
)
def test_a_setting_that_figures_depend_on_is_not_changed_within_a_run(begun, section, name, value) -> None:
    with pytest.raises(UserError, match=rf"was begun with {section}\.{name} .*, and is to go on with .*; set it back"):
        refuse_changes(begun, config(**{section: {name: value}}), ITEMS)


def test_the_number_format_that_is_stepped_stays(tmp_path) -> None:
    formats = {"student": {"dtype": "bfloat16"}, "optimiser": {"learning_rate": 1e-4}}
    write_begun(tmp_path, config(**formats), ITEMS)
    words = r"was begun with learner\.master_dtype 'float32', and is to go on with 'bfloat16'; set it back, or begin"
    with pytest.raises(UserError, match=words):
        refuse_changes(tmp_path, config(**formats, learner={"master_dtype": "bfloat16"}), ITEMS)


def test_what_may_be_changed_within_a_run(begun) -> None:
    refuse_changes(
        begun, config(run={"steps": 999}, optimiser={"learning_rate": 1e-6}, teacher={"path": "/x/t"}), ITEMS
    )


def test_a_run_of_before_such_notes_is_let_through(tmp_path) -> None:
    refuse_changes(tmp_path, config(), ITEMS)


def test_a_digest_tells_what_was_asked() -> None:
    digests = {item_digest(item, asked) for item in (*ITEMS, *changed(0, answer="x")) for asked in (48, 49)}
    assert len(digests) == 2 * (len(ITEMS) + 1)


def test_another_commit_of_a_checkpoint_is_another_model(tmp_path) -> None:
    def _cached(cache: str, commit: str) -> Config:
        return config(teacher={"path": f"{cache}/models--org--name/snapshots/{commit}"})

    first, second = "a1" * 20, "b2" * 20
    write_begun(tmp_path, _cached("/home/me/hub", first), ITEMS)
    refuse_changes(tmp_path, _cached("/data/hub", first), ITEMS)
    with pytest.raises(UserError) as refused:
        refuse_changes(tmp_path, _cached("/home/me/hub", second), ITEMS)
    change = f"with teacher.path 'org/name@{first}', and is to go on with 'org/name@{second}'"
    assert change in str(refused.value)
