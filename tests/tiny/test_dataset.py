"""The data folder: schema, disjoint splits, balanced classes, the same bytes for the same seed, idempotent."""

import hashlib
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from tinyworld.dataset import Sizes, build_data, plan_all, read_items
from tinyworld.tasks import FOREIGN_WRONG

from xopd.data.items import load_items

pytest.importorskip("ttspico")
SMALL = Sizes(train=10, dev=5, test=5, retention_dev=8, retention_test=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    assert build_data(path, SMALL, seed=0, workers=1)
    return path


def test_schema(folder: Path) -> None:
    items = read_items(folder)
    assert len(items) == 36
    assert len({item["id"] for item in items}) == 36
    keys = {"id", "kind", "family", "split", "text", "audio", "question", "answer", "response", "meta"}
    for item in items:
        assert set(item) == (keys | {"targets"} if item["kind"] == "task" else keys)
        assert item["audio"]["sample_rate"] == 16_000
        assert hashlib.sha256((folder / item["audio"]["uri"]).read_bytes()).hexdigest() == item["audio"]["sha256"]
        assert (item["text"] is None) == (item["kind"] == "retention") == bool(item["question"])
        assert item["response"].endswith(f"answer {item['answer']}")
        assert {"speaker", "phrasing", "rate", "snr_db"} <= set(item["meta"])


def test_complete_folders_are_left_alone_quickly(folder: Path) -> None:
    before = (folder / "items.jsonl").stat().st_mtime_ns
    began = time.monotonic()
    assert not build_data(folder, SMALL, seed=0)
    assert time.monotonic() - began < 1
    assert (folder / "items.jsonl").stat().st_mtime_ns == before


def test_same_seed_same_bytes_and_a_cut_run_is_completed(folder: Path, tmp_path: Path) -> None:
    build_data(tmp_path, SMALL, seed=0, workers=1)
    assert (tmp_path / "items.jsonl").read_bytes() == (folder / "items.jsonl").read_bytes()
    (tmp_path / "complete.json").unlink()
    (tmp_path / "items.jsonl").unlink()
    assert build_data(tmp_path, SMALL, seed=0, workers=1)
    assert (tmp_path / "items.jsonl").read_bytes() == (folder / "items.jsonl").read_bytes()


def test_full_plan_is_disjoint_and_balanced() -> None:
    plans = plan_all(Sizes(), seed=0)
    assert len(plans) == 4300
    texts = {split: {p.spoken for p in plans if p.split == split} for split in ("train", "dev", "test")}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["dev"]
    assert not texts["dev"] & texts["test"]
    phrasings = {
        split: {(p.family, p.phrasing) for p in plans if p.split == split and p.kind == "task"} for split in texts
    }
    assert not phrasings["train"] & phrasings["test"]
    assert not phrasings["train"] & phrasings["dev"]
    families = Counter(p.family for p in plans if p.split == "test" and p.kind == "task")
    assert set(families.values()) == {120}
    answers = Counter(p.answer for p in plans if p.split == "test" and p.kind == "retention")
    assert len(answers) == 8
    assert max(answers.values()) - min(answers.values()) <= 1


def test_tasks_carry_a_foreign_target_and_retention_items_do_not(folder: Path) -> None:
    for item in read_items(folder):
        if item["kind"] == "task":
            assert set(item["targets"]) == {"foreign"}
            assert item["targets"]["foreign"].startswith("answer ")
    for plan in plan_all(Sizes(), seed=0):
        assert bool(plan.targets) == (plan.kind == "task")


def test_foreign_targets_are_partly_wrong_in_every_split() -> None:
    plans = [p for p in plan_all(Sizes(), seed=0) if p.kind == "task"]
    for split, slack in (("train", 0.02), ("dev", 0.06), ("test", 0.045)):
        wrong = [dict(p.targets)["foreign"] != f"answer {p.answer}" for p in plans if p.split == split]
        assert abs(sum(wrong) / len(wrong) - FOREIGN_WRONG) < slack


def test_manifests_load_with_their_targets(folder: Path) -> None:
    for raw, item in zip(read_items(folder), load_items(folder / "items.jsonl"), strict=True):
        assert item.targets == raw.get("targets", {})


def test_the_mark_says_what_was_made(folder: Path) -> None:
    assert json.loads((folder / "complete.json").read_text())["seed"] == 0
