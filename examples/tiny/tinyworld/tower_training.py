"""Training of the audio tower with its probe: CTC over words plus a regression of the voice's traits."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Qwen2AudioEncoder

from .corpus import Corpus
from .speech import SAMPLE_RATE
from .tasks import spoken_vocabulary
from .tower import HOP, MARGIN_FRAMES, Probe, encode_mel, new_tower

BATCH_SECONDS = 140.0  # seconds of padded audio a step
TRAIT_WEIGHT = 0.5


def edit_distance(a: list[str], b: list[str]) -> int:
    """Substitutions, insertions and deletions between two word lists."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def word_error_rate(references: list[str], hypotheses: list[str]) -> float:
    """All edits over all reference words."""
    errors = sum(edit_distance(r.split(), h.split()) for r, h in zip(references, hypotheses, strict=True))
    return errors / sum(len(r.split()) for r in references)


def batches(corpus: Corpus, rng: random.Random) -> Iterator[list[int]]:
    """Endless batches of clips of about one length, in random order, a fresh shuffle each epoch."""
    frames = corpus.starts[1:] - corpus.starts[:-1]
    per_second = SAMPLE_RATE / HOP
    while True:
        # A little jitter in the lengths mixes the batches anew each epoch.
        order = sorted(range(len(frames)), key=lambda i: float(frames[i]) * rng.uniform(0.92, 1.08))
        cut: list[list[int]] = [[]]
        longest = 0
        for i in order:
            longest = max(longest, int(frames[i]))
            if len(cut[-1]) * longest / per_second >= BATCH_SECONDS:
                cut.append([])
                longest = int(frames[i])
            cut[-1].append(i)
        rng.shuffle(cut)
        yield from cut


def mask_features(mel: Tensor, generator: torch.Generator) -> Tensor:
    """SpecAugment, gently: one band of up to 10 mel bins and two spans of up to 80 ms set to the clip's mean."""
    mel = mel.clone()
    clips, bins, frames = mel.shape
    mean = mel.mean(dim=(1, 2), keepdim=True).expand_as(mel)
    positions, bands = torch.arange(frames)[None, None], torch.arange(bins)[None, :, None]
    for size, axis, extent in ((10, bands, bins), (8, positions, frames), (8, positions, frames)):
        start = (torch.rand(clips, 1, 1, generator=generator) * extent).long()
        width = torch.randint(0, size + 1, (clips, 1, 1), generator=generator)
        mel = torch.where((axis >= start) & (axis < start + width), mean, mel)
    return mel


def pooled(outputs: Tensor, counts: Tensor) -> Tensor:
    """Mean over a clip's own outputs: [clips, tokens, width] to [clips, width]."""
    own = (torch.arange(outputs.shape[1])[None] < counts[:, None]).to(outputs.dtype)[..., None]
    return (outputs * own).sum(1) / counts[:, None]


@torch.no_grad()
def measure(tower: Qwen2AudioEncoder, probe: Probe, corpus: Corpus) -> dict[str, float]:
    """Word error rate, share of wholly right sentences, and the mean squared error of the traits."""
    tower.eval()
    texts: list[str] = []
    error = 0.0
    for start in range(0, len(corpus.texts), 25):
        rows = list(range(start, min(start + 25, len(corpus.texts))))
        outputs, counts = encode_mel(tower, *corpus.batch(rows, MARGIN_FRAMES))
        texts += probe.transcripts(outputs, counts)
        target = torch.from_numpy(corpus.traits[rows])
        error += float((probe.traits(pooled(outputs, counts)) - target).square().mean(1).sum())
    tower.train()
    whole = sum(t == r for t, r in zip(texts, corpus.texts, strict=True)) / len(texts)
    return {
        "wer": word_error_rate(corpus.texts, texts),
        "sentences": whole,
        "trait_mse": error / len(texts),
    }


def train_tower(
    corpus: Corpus, dev: Corpus, folder: Path, steps: int, seed: int, peak_rate: float = 2e-3
) -> tuple[Qwen2AudioEncoder, Probe]:
    """Trains tower and probe and writes `tower.safetensors`, `probe.safetensors` into `folder`; resumes a cut run."""
    vocabulary = spoken_vocabulary()
    index = {word: i + 1 for i, word in enumerate(vocabulary)}
    tower = new_tower(seed)
    probe = Probe(tower.config.d_model, vocabulary)
    weights = [p for p in (*tower.parameters(), *probe.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=peak_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak_rate, total_steps=steps + 1, pct_start=0.15)
    folder.mkdir(parents=True, exist_ok=True)
    state_file, first = folder / "tower-state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        tower.load_state_dict(state["tower"])
        probe.load_state_dict(state["probe"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = int(state["step"])
    stream = batches(corpus, random.Random(f"tower/{seed}/{first}"))
    generator = torch.Generator().manual_seed(seed + first)
    tower.train()
    columns: list[Any] = [*Progress.get_default_columns()[:3], TimeElapsedColumn(), TimeRemainingColumn()]
    columns.append(TextColumn("{task.fields[note]}"))
    note, began = "", time.monotonic()
    with Progress(*columns) as progress:
        bar = progress.add_task("tower", total=steps, completed=first, note="")
        for step in range(first, steps):
            rows = next(stream)
            mel, lengths = corpus.batch(rows, MARGIN_FRAMES)
            words = [[index[w] for w in corpus.texts[r].split()] for r in rows]
            with torch.autocast("cpu", torch.bfloat16):
                outputs, counts = encode_mel(tower, mask_features(mel, generator), lengths)
            outputs = outputs.float()
            ctc = nn.functional.ctc_loss(
                probe.words(outputs).log_softmax(-1).transpose(0, 1),
                torch.tensor([w for row in words for w in row]),
                counts,
                torch.tensor([len(row) for row in words]),
                zero_infinity=True,
            )
            target = torch.from_numpy(corpus.traits[rows])
            trait = (probe.traits(pooled(outputs, counts)) - target).square().mean()
            optimiser.zero_grad(set_to_none=True)
            cast(Tensor, ctc + TRAIT_WEIGHT * trait).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            if step % 20 == 19:
                note = f"ctc {ctc.item():.3f} traits {trait.item():.3f}"
            if (step + 1) % 300 == 0 or step + 1 == steps:
                found = measure(tower, probe, dev)
                elapsed = time.monotonic() - began
                progress.console.print(
                    f"step {step + 1} ({elapsed:.0f} s): dev word error rate {found['wer']:.2%}, "
                    f"{found['sentences']:.1%} of sentences, traits {found['trait_mse']:.3f}; train {note}"
                )
                torch.save(
                    {
                        "tower": tower.state_dict(),
                        "probe": probe.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "schedule": schedule.state_dict(),
                        "step": step + 1,
                    },
                    state_file,
                )
            progress.update(bar, completed=step + 1, note=note)
    tower.eval()
    save_file({k: v.contiguous() for k, v in tower.state_dict().items()}, folder / "tower.safetensors")
    save_probe(probe, folder / "probe.safetensors")
    return tower, probe


def save_probe(probe: Probe, path: Path) -> None:
    """The probe's weights, with its vocabulary (blank not counted) in the file's metadata."""
    tensors = {k: v.contiguous() for k, v in probe.state_dict().items()}
    save_file(tensors, path, metadata={"vocabulary": " ".join(probe.vocabulary), "blank": "0"})


def load_probe(path: Path) -> Probe:
    """The probe that `save_probe` wrote."""
    with safe_open(path, "pt") as file:
        vocabulary = file.metadata()["vocabulary"].split()
    tensors = load_file(path)
    probe = Probe(tensors["words.weight"].shape[1], vocabulary)
    probe.load_state_dict(tensors)
    return probe.eval()


def load_tower(path: Path) -> Qwen2AudioEncoder:
    """The tower that `train_tower` wrote."""
    tower = new_tower(0)
    tower.load_state_dict(load_file(path))
    return tower.eval()
