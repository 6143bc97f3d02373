"""Measures what the checkpoints can do on the test split, and writes the figures for every later report.

The *information ceiling* is the text teacher's accuracy on what the linear probe hears: no training of the language
model alone can bring out by voice what the frozen tower has not heard.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import Qwen2Tokenizer

from xopd.data import Item
from xopd.evals.graders.registry import grader_named
from xopd.evals.intervals import accuracy_of

from . import cards
from .dataset import read_items
from .language import LARGE, LONGEST_RESPONSE, embed_text, greedy
from .student import Student, embed_speech, load_student, load_teacher, vocabulary_difference
from .tokens import load_tokenizer
from .tower import encode, feature_extractor
from .tower_training import load_probe, word_error_rate
from .verbose import LONGEST_VERBOSE

Figure = dict[str, Any]


def figure(right: list[bool]) -> Figure:
    """Accuracy, how many items it is over, and the half width of its 95 % interval (Wilson's)."""
    score = accuracy_of(right)
    low, high = score.ci95
    return {"accuracy": round(score.accuracy, 4), "n": score.n, "ci95": round((high - low) / 2, 4)}


def load_clip(folder: Path, item: dict[str, Any]) -> npt.NDArray[np.float32]:
    """An item's clip [samples], 16 kHz."""
    clip, rate = soundfile.read(folder / item["audio"]["uri"], dtype="float32")
    if rate != item["audio"]["sample_rate"]:
        raise ValueError(f"{item['id']}: the file says {rate} Hz, the manifest {item['audio']['sample_rate']} Hz")
    return np.asarray(clip, np.float32)


def encode_items(student: Student, folder: Path, items: list[dict[str, Any]]) -> list[Tensor]:
    """Tower outputs [tokens, width] of each item, in order; clips of like length are encoded together."""
    order = sorted(range(len(items)), key=lambda i: float(items[i]["audio"]["seconds"]))
    extractor = feature_extractor()
    outputs: list[Tensor] = [torch.empty(0)] * len(items)
    for start in track(range(0, len(order), 20), description="hearing"):
        rows = order[start : start + 20]
        clips = [load_clip(folder, items[i]) for i in rows]
        for row, output in zip(rows, encode(student.tower, extractor, clips), strict=True):
            outputs[row] = output.clone()  # not a view that keeps the whole batch alive
    return outputs


def judge(texts: list[str], items: list[dict[str, Any]]) -> list[bool]:
    """Whether each response is right, by the grader that a run of this world uses."""
    grader = grader_named("final_answer")
    return [grader.grade(text, Item.model_validate(item)) for text, item in zip(texts, items, strict=True)]


@torch.no_grad()
def answers_by_voice(
    student: Student, tokenizer: Qwen2Tokenizer, features: list[Tensor], items: list[dict[str, Any]]
) -> list[str]:
    """Greedy responses to spoken items."""
    audio = [student.projector(f) for f in features]
    prompts = embed_speech(student.language, tokenizer, audio, [item["question"] for item in items])
    return greedy(student.language, tokenizer, prompts)


@torch.no_grad()
def answers_by_text(
    model: Any, tokenizer: Qwen2Tokenizer, texts: list[str], longest_response: int = LONGEST_RESPONSE
) -> list[str]:
    """Greedy responses to written instructions."""
    return greedy(model, tokenizer, embed_text(model, tokenizer, texts), longest_response=longest_response)


@torch.no_grad()
def measure_all(data: Path, checkpoints: Path, out: Path, console: Console, split: str = "test") -> dict[str, Any]:
    """Writes and prints every figure; see the module's first lines for the ceiling."""
    torch.set_num_threads(1)
    items = [item for item in read_items(data) if item["split"] == split]
    tasks = [item for item in items if item["kind"] == "task"]
    voices = [item for item in items if item["kind"] == "retention"]
    for name in ("teacher", "teacher_large"):
        difference = vocabulary_difference(checkpoints / "student", checkpoints / name)
        if difference:
            raise ValueError(f"student and {name} do not share a tokenizer: {difference}")
    tokenizer = load_tokenizer(checkpoints / "student")
    student = load_student(checkpoints / "student", tokenizer)
    teacher = load_teacher(checkpoints / "teacher", tokenizer)
    larger = load_teacher(checkpoints / "teacher_large", tokenizer, LARGE)
    probe = load_probe(checkpoints / "probe.safetensors")
    features = encode_items(student, data, tasks)
    counts = torch.tensor([len(f) for f in features])
    heard = [probe.transcripts(f[None], c[None])[0] for f, c in zip(features, counts, strict=True)]
    spoken = [item["text"] for item in tasks]
    ceiling = judge(answers_by_text(teacher, tokenizer, heard), tasks)
    speech = judge(answers_by_voice(student, tokenizer, features, tasks), tasks)
    voice_features = encode_items(student, data, voices)
    figures: dict[str, Any] = {
        "split": split,
        "information_ceiling": figure(ceiling),
        "probe_wer": round(word_error_rate(spoken, heard), 5),
        "probe_sentences": round(sum(h == s for h, s in zip(heard, spoken, strict=True)) / len(heard), 4),
        "teacher_text": figure(judge(answers_by_text(teacher, tokenizer, spoken), tasks)),
        "teacher_large_text": figure(judge(answers_by_text(larger, tokenizer, spoken, LONGEST_VERBOSE), tasks)),
        "base": {
            "speech": figure(speech),
            "text": figure(judge(answers_by_text(student.language, tokenizer, spoken), tasks)),
            "retention": figure(judge(answers_by_voice(student, tokenizer, voice_features, voices), voices)),
        },
    }
    families: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for item, c, s in zip(tasks, ceiling, speech, strict=True):
        families[item["family"]]["information_ceiling"].append(c)
        families[item["family"]]["base_speech"].append(s)
    figures["families"] = {
        family: {name: round(sum(v) / len(v), 4) for name, v in found.items()} for family, found in families.items()
    }
    out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    cards.add_figures(checkpoints, figures)
    table = Table("what", "accuracy", "n", title=f"split {split}")
    for name, row in (
        ("teacher, text", figures["teacher_text"]),
        ("larger teacher, text", figures["teacher_large_text"]),
        ("information ceiling", figures["information_ceiling"]),
        *((f"base student, {k}", v) for k, v in figures["base"].items()),
    ):
        table.add_row(name, f"{row['accuracy']:.1%} ± {row['ci95']:.1%}", str(row["n"]))
    console.print(table)
    console.print(f"probe: {figures['probe_wer']:.2%} word error rate; figures written to {out}")
    return figures
