"""All training stages in order, each kept when its files are there: corpus, tower, teacher, base, teacher-large."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from rich.console import Console

from . import cards
from .base import Recipe, train_base
from .corpus import build_corpus
from .language import LARGE, TeacherRecipe, train_teacher
from .student import load_teacher, save_student, save_teacher
from .tokens import build_tokenizer
from .tower_training import load_probe, load_tower, save_probe, train_tower
from .verbose import LONGEST_VERBOSE, verbose_response

STAGES = ("corpus", "tower", "teacher", "base", "teacher-large")
CORPUS_CLIPS, CORPUS_DEV_CLIPS = 12_000, 400
TOWER_STEPS = 3600
TEACHERS = {
    "teacher": TeacherRecipe(),
    # Grown from the first teacher, which has done its walks.
    "teacher-large": TeacherRecipe(LARGE, verbose_response, LONGEST_VERBOSE, steps=1200, walks=0.0, peak_rate=1e-3),
}
console = Console()


def run(stage: str, seed: int, work: Path, out: Path) -> None:
    """Runs one stage and what it needs, or all of them; a stage whose files are there is not run again."""
    if stage not in (*STAGES, "all"):
        raise ValueError(f"there is no stage {stage!r}; the stages are all, {', '.join(STAGES)}")
    wanted = STAGES if stage == "all" else STAGES[: STAGES.index(stage) + 1]
    if stage in TEACHERS:
        wanted = (stage,)  # teachers hear nothing, so they need neither corpus nor tower
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(seed)
    if "corpus" in wanted:
        build_corpus(work / "corpus-dev.npz", "dev", CORPUS_DEV_CLIPS, seed)
        build_corpus(work / "corpus-train.npz", "train", CORPUS_CLIPS, seed)
    if "tower" in wanted and not (work / "tower" / "probe.safetensors").exists():
        torch.set_num_threads(2)
        train = build_corpus(work / "corpus-train.npz", "train", CORPUS_CLIPS, seed)
        dev = build_corpus(work / "corpus-dev.npz", "dev", CORPUS_DEV_CLIPS, seed)
        train_tower(train, dev, work / "tower", TOWER_STEPS, seed)
    torch.set_num_threads(1)  # the language models are too small to gain from a second thread
    folders = {name: out / name.replace("-", "_") for name in TEACHERS}
    for name, recipe in TEACHERS.items():
        folder = folders[name]
        if name in wanted and not (folder / "model.safetensors").exists():
            small = load_teacher(folders["teacher"], tokenizer) if name == "teacher-large" else None
            teacher = train_teacher(tokenizer, work / folder.name, recipe, seed, small)
            save_teacher(teacher, tokenizer, folder, max_tokens=recipe.longest_response + 4)
            cards.write_teacher(folder, seed, recipe.steps)
    if "base" in wanted and not (out / "student" / "model.safetensors").exists():
        tower = load_tower(work / "tower" / "tower.safetensors")
        weights = load_teacher(out / "teacher", tokenizer).state_dict()
        probe = load_probe(work / "tower" / "probe.safetensors")
        student = train_base(tower, probe, weights, tokenizer, work / "base", seed, Recipe())
        save_student(student, tokenizer, out / "student")
        cards.write_student(out / "student", seed)
    for folder in folders.values():
        for file in ("tokenizer.json", "tokenizer_config.json"):
            if (out / "student" / file).exists() and folder.exists():
                shutil.copyfile(out / "student" / file, folder / file)
    if "tower" in wanted:
        out.mkdir(parents=True, exist_ok=True)
        save_probe(load_probe(work / "tower" / "probe.safetensors"), out / "probe.safetensors")
    console.print(f"done: {', '.join(wanted)}; checkpoints in {out}")
