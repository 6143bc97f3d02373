"""Builds `examples/tiny/data/`: the spoken items of train, dev and test, and the retention probe.

Every item is a pure function of (seed, split, its number), so that any part of the folder can be made again alone:
a finished folder is recognised by `complete.json` in no time, a partial one keeps the clips that are whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import soundfile
from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn

from .speech import RETENTION, SAMPLE_RATE, retention_response, sample_delivery, synthesise
from .tasks import (
    FAMILIES,
    Content,
    Split,
    content_split,
    extract_answer,
    foreign_response,
    instruction,
    phrasings,
    response,
    sample_content,
)

VERSION = 3  # raise it when the same seed makes other items or other fields
RETENTION_SPOKEN = ("arithmetic", "extremes", "sequence")  # the short ones: slow voices take their time


@dataclass(frozen=True)
class Sizes:
    """How many items each part has."""

    train: int = 3000
    dev: int = 300
    test: int = 600
    retention_dev: int = 100
    retention_test: int = 300


@dataclass(frozen=True)
class Plan:
    """All that is known of an item before its sound is made."""

    id: str
    kind: str
    family: str
    split: Split
    spoken: str
    text: str | None
    question: str
    answer: str
    response: str
    phrasing: str
    traits: tuple[tuple[str, str], ...]
    seed: str
    targets: tuple[tuple[str, str], ...] = ()
    """Further reference responses as (style, response): none for retention items."""


def plan_tasks(split: Split, count: int, seed: int) -> Iterator[Plan]:
    """Task items: the families in turn, contents all different where the family has enough of them."""
    rng = random.Random(f"items/{seed}/{split}")
    used: set[tuple[str, int]] = set()
    for number in range(count):
        family = FAMILIES[number % len(FAMILIES)]
        repeats = 0
        while True:
            content = sample_content(family, rng)
            if content_split(content) != split:
                continue
            if (content.key, repeats // 200) not in used:
                used.add((content.key, repeats // 200))
                break
            repeats += 1  # a small family runs dry after a while: then a content may come once more
        phrasing = rng.choice(phrasings(family, split))
        text, chain = instruction(content, phrasing), response(content)
        name = f"{family}-{split}-{number // len(FAMILIES):05d}"
        yield Plan(
            name, "task", family, split, text, text, "", extract_answer(chain), chain,
            f"{phrasing[0]}.{phrasing[1]}", (), f"{seed}/{name}",
            (("foreign", foreign_response(content, name)),),
        )  # fmt: skip


def plan_retention(split: Split, count: int, seed: int) -> Iterator[Plan]:
    """Retention items: four questions in turn, their two classes in turn, over clips that ask something else."""
    rng = random.Random(f"retention/{seed}/{split}")
    traits = list(RETENTION)
    for number in range(count):
        trait = traits[number % len(traits)]
        question, classes = RETENTION[trait]
        answer = classes[number // len(traits) % 2]
        family = rng.choice(RETENTION_SPOKEN)
        content: Content | None = None
        while content is None or content_split(content) != split:
            content = sample_content(family, rng)
        phrasing = rng.choice(phrasings(family, split))
        name = f"retention-{trait}-{split}-{number // len(traits):05d}"
        yield Plan(
            name, "retention", trait, split, instruction(content, phrasing), None, question, answer,
            retention_response(answer), f"{family}.{phrasing[0]}.{phrasing[1]}", ((trait, answer),),
            f"{seed}/{name}",
        )  # fmt: skip


def plan_all(sizes: Sizes, seed: int) -> list[Plan]:
    """Every item of the folder, in the manifest's order."""
    return [
        *plan_tasks("train", sizes.train, seed),
        *plan_tasks("dev", sizes.dev, seed),
        *plan_tasks("test", sizes.test, seed),
        *plan_retention("dev", sizes.retention_dev, seed),
        *plan_retention("test", sizes.retention_test, seed),
    ]


def encode_clip(plan: Plan) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """The clip as FLAC bytes, the item's `audio` entry and its `meta` entry."""
    delivery = sample_delivery(random.Random(f"delivery/{plan.seed}"), plan.split, dict(plan.traits))
    clip = synthesise(plan.spoken, delivery)
    buffer = io.BytesIO()
    soundfile.write(buffer, clip, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    data = buffer.getvalue()
    audio = {
        "uri": f"audio/{plan.id}.flac",
        "sha256": hashlib.sha256(data).hexdigest(),
        "seconds": round(len(clip) / SAMPLE_RATE, 3),
        "sample_rate": SAMPLE_RATE,
    }
    meta = {
        "speaker": delivery.speaker,
        "phrasing": plan.phrasing,
        "rate": delivery.rate,
        "snr_db": delivery.snr_db,
        "gain_db": delivery.gain_db,
        "spoken": plan.spoken,
    }
    return data, audio, meta


def _make_items(job: tuple[Path, list[Plan]]) -> list[str]:
    """Makes the clips of some items and returns the items' JSON lines."""
    folder, plans = job
    lines = []
    for plan in plans:
        data, audio, meta = encode_clip(plan)
        target = folder / audio["uri"]
        partial = target.with_suffix(".partial")
        partial.write_bytes(data)
        partial.replace(target)
        item = {
            "id": plan.id, "kind": plan.kind, "family": plan.family, "split": plan.split, "text": plan.text,
            "audio": audio, "question": plan.question, "answer": plan.answer, "response": plan.response,
            **({"targets": dict(plan.targets)} if plan.targets else {}), "meta": meta,
        }  # fmt: skip
        lines.append(json.dumps(item))
    return lines


def build_data(folder: Path, sizes: Sizes, seed: int, workers: int = 2) -> bool:
    """Makes `folder`; returns False, having done nothing, when it is already complete for these sizes and seed."""
    wanted = {"version": VERSION, "seed": seed, "sizes": asdict(sizes)}
    mark, manifest = folder / "complete.json", folder / "items.jsonl"
    if mark.exists() and manifest.exists() and json.loads(mark.read_text(encoding="utf-8")) == wanted:
        return False
    mark.unlink(missing_ok=True)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    parts = folder / f"parts-{VERSION}-{seed}"
    parts.mkdir(exist_ok=True)
    plans = plan_all(sizes, seed)
    chunk = 60
    lines: list[str] = []
    columns: list[Any] = [*Progress.get_default_columns()[:3], TimeElapsedColumn(), TimeRemainingColumn()]
    starts = range(0, len(plans), chunk)
    with ProcessPoolExecutor(workers) as pool, Progress(*columns) as progress:
        bar = progress.add_task(f"{len(plans)} clips", total=len(starts))
        futures = {}
        for start in starts:
            some = plans[start : start + chunk]
            digest = hashlib.sha256(repr(some).encode()).hexdigest()[:16]
            part = parts / f"{digest}.jsonl"
            futures[start] = (part, None if part.exists() else pool.submit(_make_items, (folder, some)))
        for part, future in futures.values():
            if future is not None:
                partial = part.with_suffix(".partial")
                partial.write_text("".join(line + "\n" for line in future.result()), encoding="utf-8")
                partial.replace(part)
            lines += part.read_text(encoding="utf-8").splitlines()
            progress.advance(bar)
    partial = manifest.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    partial.replace(manifest)
    for part in parts.iterdir():
        part.unlink()
    parts.rmdir()
    mark.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    return True


def read_items(folder: Path) -> list[dict[str, Any]]:
    """All items of a data folder, as dictionaries in the manifest's order."""
    manifest = folder / "items.jsonl"
    if not manifest.exists():
        raise FileNotFoundError(f"there is no {manifest}; make it with: python -m tinyworld data")
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
