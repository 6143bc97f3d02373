"""The corpus the tower is trained on: many synthetic clips, their words, their voices, and cached mel features.

Three quarters are training tasks in training phrasings, a quarter random strings of words, so that no word can be
guessed from its neighbours alone. Only speakers of the split are heard.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from .speech import Delivery, sample_delivery, synthesise
from .tasks import Split, instruction, sample_task, spoken_vocabulary

CHUNK = 50  # clips a worker makes at a time


@dataclass
class Corpus:
    """Mel frames of all clips end to end [all frames, 80] (float16), where each clip starts, words and traits."""

    mel: npt.NDArray[np.float16]
    starts: npt.NDArray[np.int64]  # [clips + 1]
    texts: list[str]
    traits: npt.NDArray[np.float32]  # [clips, 4]: Probe.TRAITS, each about zero mean and unit spread

    def batch(self, rows: list[int], margin: int) -> tuple[Tensor, Tensor]:
        """Features [rows, 80, frames] in float32 and each clip's own frames [rows]; silence repeats the last frame."""
        lengths = [int(self.starts[r + 1] - self.starts[r]) for r in rows]
        out = np.empty((len(rows), self.mel.shape[1], max(lengths)), np.float32)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            frames = self.mel[self.starts[row] : self.starts[row + 1]].astype(np.float32).T
            out[i, :, :length] = frames
            out[i, :, length:] = frames[:, -1:]
        return torch.from_numpy(out), torch.tensor(lengths) - margin


def traits_of(delivery: Delivery) -> list[float]:
    """The four figures the trait head learns, centred and scaled."""
    return [
        1.0 if delivery.voice == "en-GB" else 0.0,
        (delivery.pitch - 100) / 20,
        (delivery.rate - 120) / 25,
        (delivery.gain_db + 10) / 7,
    ]


def draw(split: Split, rng: random.Random) -> tuple[str, Delivery]:
    """One utterance: three in four a task, one in four random words; one in four in a marked manner of voice."""
    if rng.random() < 0.75:
        text = instruction(*sample_task(split, rng))
    else:
        text = " ".join(rng.choices(spoken_vocabulary(), k=rng.randint(3, 9)))
    traits: dict[str, str] = {}
    if rng.random() < 0.25 and len(text.split()) <= 12:
        traits["pace"] = rng.choice(("fast", "slow"))
    if rng.random() < 0.25:
        traits["loudness"] = rng.choice(("loud", "quiet"))
    return text, sample_delivery(rng, split, traits)


def _make_chunk(job: tuple[Split, str, int]) -> tuple[list[npt.NDArray[np.float16]], list[str], list[list[float]]]:
    """One worker's share: mel features [frames, 80] with their margin, texts and traits of `count` clips."""
    from .tower import feature_extractor, mel_features

    split, seed, count = job
    torch.set_num_threads(1)
    rng, extractor = random.Random(seed), feature_extractor()
    mels, texts, traits = [], [], []
    for _ in range(count):
        text, delivery = draw(split, rng)
        mel, _length = mel_features(extractor, [synthesise(text, delivery)])
        mels.append(mel[0].T.numpy().astype(np.float16))
        texts.append(text)
        traits.append(traits_of(delivery))
    return mels, texts, traits


def _chunks(split: Split, clips: int, seed: int) -> Iterator[tuple[Split, str, int]]:
    for start in range(0, clips, CHUNK):
        yield split, f"corpus/{seed}/{split}/{start}", min(CHUNK, clips - start)


def build_corpus(path: Path, split: Split, clips: int, seed: int, workers: int = 2) -> Corpus:
    """The corpus at `path` (a .npz); made, with a progress bar, when it is not there."""
    if path.exists():
        return load_corpus(path)
    jobs = list(_chunks(split, clips, seed))
    mels: list[npt.NDArray[np.float16]] = []
    texts: list[str] = []
    traits: list[list[float]] = []
    columns: list[Any] = [*Progress.get_default_columns()[:3], TimeElapsedColumn(), TimeRemainingColumn()]
    with ProcessPoolExecutor(workers) as pool, Progress(*columns) as progress:
        bar = progress.add_task(f"corpus {split}: {clips} clips", total=len(jobs))
        for part_mels, part_texts, part_traits in pool.map(_make_chunk, jobs):
            mels += part_mels
            texts += part_texts
            traits += part_traits
            progress.advance(bar)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        mel=np.concatenate(mels),
        starts=np.cumsum([0, *(len(m) for m in mels)]),
        texts=np.array(texts),
        traits=np.array(traits, np.float32),
    )
    partial.replace(path)  # a corpus cut short is never taken for a whole one
    return load_corpus(path)


def load_corpus(path: Path) -> Corpus:
    """The corpus that `build_corpus` wrote."""
    data = np.load(path, allow_pickle=False)
    return Corpus(data["mel"], data["starts"], [str(t) for t in data["texts"]], data["traits"])
