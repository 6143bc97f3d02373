"""The base speech student: it hears well and misuses what it hears.

Real speech LLMs have learnt to write down what they hear, and still answer shallowly by voice. So does this one: its
language model starts as the teacher's, and a short training shows it spoken questions whose answers are mostly terse
("answer nine", no steps), a minority of chains, dictation, a few questions about the voice itself, and enough text that
its answers to text stay near the teacher's.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from transformers import Qwen2AudioEncoder, Qwen2Tokenizer

from .dataset import RETENTION_SPOKEN
from .language import (
    accuracy,
    embed_text,
    greedy,
    loss_of,
    response_ids,
    text_accuracy,
    training_batch,
)
from .speech import RETENTION, retention_response, sample_delivery, synthesise
from .student import Student, embed_speech, new_language_model
from .tasks import Split, extract_answer, instruction, response, sample_task
from .tower import Probe, encode, feature_extractor

# What is written beside a clip that is to be taken down word for word.
DICTATION = "what did the voice tell"


@dataclass(frozen=True)
class Recipe:
    """The base student's training: what it is shown in a step, how much is terse, and how fast it learns."""

    speech_clips: int = 5000
    retention_clips: int = 1200
    steps: int = 600
    speech: int = 16
    dictation: int = 10
    retention: int = 10
    text: int = 8
    terse_speech: float = 0.6
    terse_text: float = 0.15
    projector_rate: float = 3e-4
    language_rate: float = 1e-3


@dataclass
class Spoken:
    """A clip's tower outputs [tokens, width], the question beside it, the instruction in it, answer and chain."""

    features: Tensor
    question: str
    text: str
    answer: str
    response: str


def _speak(job: tuple[str, Split, bool, int]) -> list[tuple[npt.NDArray[np.int16], str, str, str, str]]:
    """Clips with question, text, answer and response, for a worker process."""
    seed, split, retention, count = job
    rng = random.Random(seed)
    made = []
    for number in range(count):
        traits: dict[str, str] = {}
        question = ""
        if retention:
            trait = list(RETENTION)[number % len(RETENTION)]
            question, classes = RETENTION[trait]
            traits = {trait: classes[number // len(RETENTION) % 2]}
            content, phrasing = sample_task(split, rng, rng.choice(RETENTION_SPOKEN))
            chain = retention_response(traits[trait])
        else:
            content, phrasing = sample_task(split, rng)
            chain = response(content)
        text = instruction(content, phrasing)
        clip = synthesise(text, sample_delivery(rng, split, traits))
        made.append(((clip * 32767).astype(np.int16), question, text, extract_answer(chain), chain))
    return made


def speak_many(
    tower: Qwen2AudioEncoder, cache: Path, seed: str, split: Split, retention: bool, count: int, workers: int = 2
) -> list[Spoken]:
    """`count` fresh clips with their tower outputs; kept in the file `cache`."""
    if cache.exists():
        return load_spoken(cache)
    chunk = 80
    jobs = [(f"{seed}/{i}", split, retention, min(chunk, count - i)) for i in range(0, count, chunk)]
    extractor, items = feature_extractor(), []
    columns: list[Any] = [*Progress.get_default_columns()[:3], TimeElapsedColumn(), TimeRemainingColumn()]
    with ProcessPoolExecutor(workers) as pool, Progress(*columns) as progress:
        kind = "about the voice" if retention else "tasks"
        bar = progress.add_task(f"{count} clips ({split}, {kind})", total=len(jobs))
        for made in pool.map(_speak, jobs):
            made = sorted(made, key=lambda m: len(m[0]))
            for start in range(0, len(made), 20):
                part = made[start : start + 20]
                outputs = encode(tower, extractor, [m[0].astype(np.float32) / np.float32(32767) for m in part])
                items += [Spoken(f.clone(), *m[1:]) for f, m in zip(outputs, part, strict=True)]
            progress.advance(bar)
    save_spoken(items, cache)
    return items


def save_spoken(items: list[Spoken], path: Path) -> None:
    """All clips in one .npz: tower outputs end to end [all tokens, width], where each starts, and the words."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [[getattr(s, name) for name in ("question", "text", "answer", "response")] for s in items]
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        features=torch.cat([s.features for s in items]).numpy(),
        starts=np.cumsum([0, *(len(s.features) for s in items)]),
        words=np.array(words),
    )
    partial.replace(path)


def load_spoken(path: Path) -> list[Spoken]:
    """What `save_spoken` wrote."""
    data = np.load(path, allow_pickle=False)
    features = torch.from_numpy(data["features"])
    parts = features.split(np.diff(data["starts"]).tolist())  # type: ignore[no-untyped-call]
    return [Spoken(f, *(str(w) for w in words)) for f, words in zip(parts, data["words"], strict=True)]


@torch.no_grad()
def speech_accuracy(student: Student, tokenizer: Qwen2Tokenizer, items: list[Spoken]) -> float:
    """Greedy accuracy when asked by voice."""
    audio = [student.projector(s.features) for s in items]
    prompts = embed_speech(student.language, tokenizer, audio, [s.question for s in items])
    return accuracy(greedy(student.language, tokenizer, prompts), [s.answer for s in items])


@torch.no_grad()
def align_projector(
    items: list[Spoken], probe: Probe, table: Tensor, tokenizer: Qwen2Tokenizer, seed: int
) -> nn.Linear:
    """A projector in closed form: where the probe hears a word, the output is that word's token embedding.

    Ridge regression from tower outputs [tokens, width] to embeddings, nought where the probe hears nothing; on top,
    each trait of the voice gets a random direction of its own, as strong as a third of an embedding. Training goes
    on from there: it would find the same from scratch, only far more slowly.
    """
    features = torch.cat([s.features for s in items])
    heard = probe.words(features).softmax(-1)[:, 1:]
    words = torch.tensor([tokenizer.encode(" " + word)[0] for word in probe.vocabulary])
    targets = heard @ table[words]
    weight = 0.2 + heard.sum(-1, keepdim=True)  # words are rarer than the silence between them
    inputs = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    gram = inputs.T @ (weight * inputs) / len(inputs) + 1e-4 * torch.eye(inputs.shape[1])
    solution = torch.linalg.solve(gram, inputs.T @ (weight * targets) / len(inputs)).T
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(table.shape[1], len(probe.TRAITS), generator=generator)).Q
    directions = directions * 0.33 * table[words].norm(dim=1).mean()
    projector = nn.Linear(features.shape[1], table.shape[1])
    projector.weight.copy_(solution[:, :-1] + directions @ probe.traits.weight)
    projector.bias.copy_(solution[:, -1] + directions @ probe.traits.bias)
    return projector


def train_base(
    tower: Qwen2AudioEncoder,
    probe: Probe,
    teacher: dict[str, Tensor],
    tokenizer: Qwen2Tokenizer,
    work: Path,
    seed: int,
    recipe: Recipe,
) -> Student:
    """The base student; prints its speech, text and retention accuracy on development material now and then."""
    tasks = speak_many(tower, work / "tasks.npz", f"base/{seed}", "train", False, recipe.speech_clips)
    voices = speak_many(tower, work / "voices.npz", f"voices/{seed}", "train", True, recipe.retention_clips)
    dev_tasks = speak_many(tower, work / "dev-tasks.npz", f"base-dev/{seed}", "dev", False, 200)
    dev_voices = speak_many(tower, work / "dev-voices.npz", f"voices-dev/{seed}", "dev", True, 160)
    torch.manual_seed(seed)
    rng = random.Random(f"base-training/{seed}")
    language = new_language_model(tokenizer, teacher)
    projector = align_projector(tasks[:2000], probe, language.model.embed_tokens.weight, tokenizer, seed)
    student = Student(tower, projector, language)
    optimiser = torch.optim.AdamW(
        [
            {"params": list(student.projector.parameters()), "lr": recipe.projector_rate},
            {"params": list(language.parameters()), "lr": recipe.language_rate},
        ],
        weight_decay=0.0,
        betas=(0.9, 0.98),
    )
    rates = [recipe.projector_rate, recipe.language_rate]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=recipe.steps + 1, pct_start=0.1)
    columns: list[Any] = [*Progress.get_default_columns()[:3], TimeElapsedColumn(), TimeRemainingColumn()]
    columns.append(TextColumn("{task.fields[note]}"))
    began = time.monotonic()
    weights = [*student.projector.parameters(), *language.parameters()]
    with Progress(*columns) as progress:
        bar = progress.add_task("base student", total=recipe.steps, note="")
        for step in range(recipe.steps):
            spoken = rng.sample(tasks, recipe.speech) + rng.sample(voices, recipe.retention)
            answers = [
                f"answer {s.answer}" if not s.question and rng.random() < recipe.terse_speech else s.response
                for s in spoken
            ]
            dictated = [replace(s, question=DICTATION) for s in rng.sample(tasks, recipe.dictation)]
            spoken += dictated
            answers += [s.text for s in dictated]
            written = [sample_task("train", rng) for _ in range(recipe.text)]
            for content, _phrasing in written:
                chain = response(content)
                terse = rng.random() < recipe.terse_text
                answers.append(f"answer {extract_answer(chain)}" if terse else chain)
            projected = student.projector(torch.cat([s.features for s in spoken]))
            audio = list(projected.split([len(s.features) for s in spoken]))
            prompts = embed_speech(language, tokenizer, audio, [s.question for s in spoken])
            prompts += embed_text(language, tokenizer, [instruction(*w) for w in written])
            ids = response_ids(tokenizer, answers)
            loss = loss_of(language, *training_batch(language.model.embed_tokens, prompts, ids))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            note = f"loss {loss.item():.3f}"
            progress.update(bar, advance=1, note=note)
            if (step + 1) % 200 == 0 or step + 1 == recipe.steps:
                texts, right = [s.text for s in dev_tasks], [s.answer for s in dev_tasks]
                progress.console.print(
                    f"step {step + 1} ({time.monotonic() - began:.0f} s): "
                    f"speech {speech_accuracy(student, tokenizer, dev_tasks):.1%}, "
                    f"text {text_accuracy(language, tokenizer, texts, right):.1%}, "
                    f"retention {speech_accuracy(student, tokenizer, dev_voices):.1%}; {note}"
                )
    return student
