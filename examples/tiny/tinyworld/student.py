"""The speech student put together: tower, projector and language model; its prompts; its files in the hub's names.

`save_pretrained` of transformers 5.19 writes names for Qwen2-Audio that other programs do not know, so the weights
are written here directly: `audio_tower.*`, `multi_modal_projector.linear.*`, `language_model.model.*` and
`language_model.lm_head.weight`, as in the published checkpoints of the family.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    Qwen2AudioConfig,
    Qwen2AudioEncoder,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from .language import SHARED, Size, language_config
from .tokens import AUDIO, CHAT_TEMPLATE, build_processor, speech_prompt
from .tower import feature_extractor, new_tower

AUDIO_PREFIXES = {"tower": "audio_tower.", "projector": "multi_modal_projector.linear.", "language": "language_model."}


@dataclass
class Student:
    """The three parts of a Qwen2-Audio model, each in its own module."""

    tower: Qwen2AudioEncoder
    projector: nn.Linear
    language: Any  # Qwen2ForCausalLM

    def weights(self) -> dict[str, Tensor]:
        """All weights under the hub's names."""
        parts = {"tower": self.tower, "projector": self.projector, "language": self.language}
        return {
            AUDIO_PREFIXES[part] + name: tensor.detach().float().contiguous()
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }


def embed_speech(
    language: Any, tokenizer: Qwen2Tokenizer, audio: Sequence[Tensor], questions: Sequence[str]
) -> list[Tensor]:
    """Embedded speech prompts [prompt, width] from projected clips [tokens, width] and the questions beside them."""
    rows = []
    slot = tokenizer.convert_tokens_to_ids(AUDIO)
    table = language.model.embed_tokens
    for clip, question in zip(audio, questions, strict=True):
        ids = tokenizer(speech_prompt(question))["input_ids"]
        at = ids.index(slot)
        around = table(torch.tensor(ids[:at] + ids[at + 1 :]))
        rows.append(torch.cat([around[:at], clip, around[at:]]))
    return rows


def new_language_model(
    tokenizer: Qwen2Tokenizer, weights: dict[str, Tensor] | None = None, size: Size = SHARED
) -> Qwen2ForCausalLM:
    """A language model of the given size, with these weights or fresh ones."""
    model = Qwen2ForCausalLM(language_config(tokenizer, size))
    if weights is not None:
        model.load_state_dict(weights)
    return model


def save_student(student: Student, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Weights, configuration, processor and tokenizer, so that transformers and vLLM load the folder as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    config = Qwen2AudioConfig(
        audio_config=student.tower.config.to_dict(),
        text_config=student.language.config.to_dict(),
        audio_token_index=tokenizer.convert_tokens_to_ids(AUDIO),
        architectures=["Qwen2AudioForConditionalGeneration"],
        dtype="float32",
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        vocab_size=len(tokenizer),
    )
    config.save_pretrained(folder)
    generation_config(tokenizer).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    feature_extractor().save_pretrained(folder)  # under the name that older programs look for
    finish_tokenizer(tokenizer, folder)
    save_file(student.weights(), folder / "model.safetensors", metadata={"format": "pt"})


def save_teacher(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, folder: Path, max_tokens: int = 32) -> None:
    """A text teacher, with the very same tokenizer file; `max_tokens` is the length its answers are cut at."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = ["Qwen2ForCausalLM"]
    model.config.dtype = "float32"
    model.config.save_pretrained(folder)
    generation_config(tokenizer, max_tokens).save_pretrained(folder)
    finish_tokenizer(tokenizer, folder)
    weights = {name: tensor.detach().float().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def finish_tokenizer(tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """The tokenizer's files, the same bytes in every folder."""
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def generation_config(tokenizer: Qwen2Tokenizer, max_tokens: int = 32) -> GenerationConfig:
    """Greedy, up to the end of turn."""
    return GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=max_tokens,
    )


def load_student(folder: Path, tokenizer: Qwen2Tokenizer) -> Student:
    """The student's parts from a checkpoint folder."""
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(f"there is no checkpoint in {folder}; make it with: python -m tinyworld train")
    weights = load_file(folder / "model.safetensors")

    def part(name: str) -> dict[str, Tensor]:
        prefix = AUDIO_PREFIXES[name]
        return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}

    tower = new_tower(0)
    tower.load_state_dict(part("tower"))
    projection = part("projector")
    projector = nn.Linear(projection["weight"].shape[1], projection["weight"].shape[0])
    projector.load_state_dict(projection)
    language = new_language_model(tokenizer, part("language"))
    for module in (tower, projector, language):
        module.eval()
    return Student(tower, projector, language)


def load_teacher(folder: Path, tokenizer: Qwen2Tokenizer, size: Size = SHARED) -> Qwen2ForCausalLM:
    """The text teacher of the given size from a checkpoint folder."""
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(f"there is no checkpoint in {folder}; make it with: python -m tinyworld train")
    return new_language_model(tokenizer, load_file(folder / "model.safetensors"), size).eval()


def vocabulary_difference(first: Path, second: Path) -> str | None:
    """What differs between two tokenizer files; None when they are the same bytes."""
    a, b = (folder / "tokenizer.json" for folder in (first, second))
    if a.read_bytes() == b.read_bytes():
        return None
    vocabularies = [json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"] for file in (a, b)]
    return f"{len(set(vocabularies[0]) ^ set(vocabularies[1]))} entries differ"
