"""The language model of teachers and student: its sizes, its batches, greedy answers, and the training of a teacher.

Everything here works on prompt *embeddings*, so that a text prompt and a spoken one (whose audio positions hold the
projected tower outputs) go through the same code.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from .tasks import FAMILIES, Content, extract_answer, instruction, response, sample_task, spoken_vocabulary
from .tokens import TURN_END, VOCABULARY_SIZE, text_prompt

IGNORED = -100  # label of positions that carry no loss
LONGEST_RESPONSE = 28  # tokens a greedy answer may have; right ones have at most 21


@dataclass(frozen=True)
class Size:
    """A language model's dimensions; its heads have size 32 and share 2 key-value heads."""

    width: int
    inner: int
    layers: int
    initial: float
    """Standard deviation of fresh weights: so narrow a model learns sooner from larger ones than the usual 0.02."""


SHARED = Size(width=128, inner=384, layers=4, initial=0.06)  # a million parameters: the teacher's and the student's
LARGE = Size(width=192, inner=512, layers=4, initial=0.05)  # 1.8 million: the larger teacher's


def language_config(tokenizer: Qwen2Tokenizer, size: Size = SHARED) -> Qwen2Config:
    """The configuration of a language model of this size."""
    return Qwen2Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 32,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        initializer_range=size.initial,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def grown(small: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, size: Size) -> Qwen2ForCausalLM:
    """A wider model of as many layers that begins as `small`: nearly its logits, and room for more.

    The weights of `small` fill the first rows and columns of each tensor. What is new starts at a tenth of fresh
    weights: small enough to leave the answers alone, large enough to learn.
    """
    model = Qwen2ForCausalLM(language_config(tokenizer, size))
    before, after = small.config, model.config
    # A query head keeps its key-value head, so the new heads stand at the end of each group, not all at the end.
    groups = [h.num_attention_heads // h.num_key_value_heads for h in (before, after)]
    starts = [32 * (h // groups[0] * groups[1] + h % groups[0]) for h in range(before.num_attention_heads)]
    heads = torch.cat([torch.arange(start, start + 32) for start in starts])
    for name, fresh in model.state_dict().items():
        old = small.state_dict()[name]
        if "norm" in name:  # its mean of squares is now over more, nearly empty places
            fresh[: len(old)] = old * math.sqrt(before.hidden_size / after.hidden_size)
            continue
        rows = heads if "q_proj" in name else torch.arange(old.shape[0])
        fresh *= 0.1
        if old.ndim == 1:
            fresh[rows] = old
        else:
            columns = heads if "o_proj" in name else torch.arange(old.shape[1])
            fresh[rows[:, None], columns] = old
    return model


def training_batch(
    embed: nn.Module, prompts: Sequence[Tensor], responses: Sequence[list[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompt embeddings [prompt, width] and response ids, padded on the right.

    Returns embeddings [batch, length, width], the attention mask [batch, length] and the labels [batch, length],
    which are `IGNORED` everywhere but on the responses.
    """
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    embeds = prompts[0].new_zeros(len(prompts), max(lengths), prompts[0].shape[1])
    labels = torch.full((len(prompts), max(lengths)), IGNORED)
    answers = embed(torch.tensor([t for r in responses for t in r])).split([len(r) for r in responses])
    rows = []
    for i, (prompt, ids, answer) in enumerate(zip(prompts, responses, answers, strict=True)):
        rows.append(torch.cat([prompt, answer, embeds[i, lengths[i] :]]))
        labels[i, len(prompt) : lengths[i]] = torch.tensor(ids)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return torch.stack(rows), mask.long(), labels


def loss_of(model: Any, embeds: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the response tokens."""
    keep = labels[:, 1:] != IGNORED
    hidden = model.model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state[:, :-1][keep]
    return nn.functional.cross_entropy(model.lm_head(hidden), labels[:, 1:][keep])


@torch.no_grad()
def greedy(
    model: Any,
    tokenizer: Qwen2Tokenizer,
    prompts: Sequence[Tensor],
    batch: int = 100,
    longest_response: int = LONGEST_RESPONSE,
) -> list[str]:
    """The greedy responses, as text without the end of turn, for prompt embeddings [prompt, width].

    A response that has not ended after `longest_response` tokens is cut there.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        longest = max(len(prompts[i]) for i in rows)
        embeds = torch.zeros(len(rows), longest, prompts[rows[0]].shape[1])
        mask = torch.zeros(len(rows), longest + longest_response, dtype=torch.long)
        for row, i in enumerate(rows):  # padded on the left, so that all responses start at one position
            embeds[row, longest - len(prompts[i]) :] = prompts[i]
            mask[row, longest - len(prompts[i]) :] = 1
        cache, produced = None, []
        done = torch.zeros(len(rows), dtype=torch.bool)
        for step in range(longest_response):
            width = longest + step
            positions = (mask[:, :width].cumsum(-1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
            out = model.model(
                inputs_embeds=embeds,
                attention_mask=mask[:, :width],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
            token = model.lm_head(out.last_hidden_state[:, -1]).argmax(-1)
            produced.append(torch.where(done, tokenizer.eos_token_id, token))
            done |= token == tokenizer.eos_token_id
            if bool(done.all()):
                break
            embeds = model.model.embed_tokens(token)[:, None]
        for row, ids in zip(rows, torch.stack(produced, 1).tolist(), strict=True):
            end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else len(ids)
            texts[row] = tokenizer.decode(ids[:end])
    return texts


def accuracy(texts: Sequence[str], answers: Sequence[str]) -> float:
    """Share of responses whose words after the last `answer ` are the right ones."""
    return sum(extract_answer(t) == a for t, a in zip(texts, answers, strict=True)) / len(texts)


def embed_text(model: Any, tokenizer: Qwen2Tokenizer, texts: Sequence[str]) -> list[Tensor]:
    """Embedded text prompts, each [prompt, width]."""
    ids = tokenizer([text_prompt(t) for t in texts])["input_ids"]
    rows = model.model.embed_tokens(torch.tensor([t for row in ids for t in row]))
    return list(rows.split([len(row) for row in ids]))


def response_ids(tokenizer: Qwen2Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of responses, each with its end of turn."""
    return cast(list[list[int]], tokenizer([t + TURN_END for t in texts])["input_ids"])


def text_accuracy(model: Any, tokenizer: Qwen2Tokenizer, texts: Sequence[str], answers: Sequence[str]) -> float:
    """Greedy accuracy on written instructions."""
    with torch.no_grad():
        prompts = embed_text(model, tokenizer, texts)
    return accuracy(greedy(model, tokenizer, prompts), answers)


def walk(rng: random.Random) -> tuple[str, str]:
    """An exercise for the teacher: a list of any words, walked from one of them to its end or back to its start.

    Finding a word's neighbour is the hardest skill of the tasks: one token in a whole chain tells the model about
    it, and a small model can wait thousands of steps for it. Here every token does.
    """
    words = rng.sample(spoken_vocabulary(), rng.randint(4, 12))
    side, start = rng.choice(("after", "before")), rng.randrange(len(words))
    path = words[start:] if side == "after" else words[start::-1]
    return f"{' '.join(words)} {side} {words[start]}", f"{side} {' '.join(path)}"


@dataclass(frozen=True)
class TeacherRecipe:
    """What makes a text teacher: its size, the chains it learns, and how long and fast it learns them."""

    size: Size = SHARED
    chain: Callable[[Content], str] = response
    longest_response: int = LONGEST_RESPONSE
    steps: int = 3000
    walks: float = 0.6
    """Share of the steps, from the first on, that hold walks beside the tasks."""
    peak_rate: float = 2e-3
    batch: int = 48


def train_teacher(
    tokenizer: Qwen2Tokenizer, folder: Path, recipe: TeacherRecipe, seed: int, small: Qwen2ForCausalLM | None = None
) -> Qwen2ForCausalLM:
    """A text teacher, from scratch or grown from `small`, on tasks drawn afresh each step; kept in `folder`."""
    steps, batch, peak_rate = recipe.steps, recipe.batch, recipe.peak_rate
    torch.manual_seed(seed)
    rng, dev_rng = random.Random(f"teacher/{seed}"), random.Random(f"teacher-dev/{seed}")
    if small is None:
        model = Qwen2ForCausalLM(language_config(tokenizer, recipe.size))
    else:
        model = grown(small, tokenizer, recipe.size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak_rate, total_steps=steps + 1, pct_start=0.1)
    dev = [sample_task("dev", dev_rng, FAMILIES[i % len(FAMILIES)]) for i in range(500)]
    columns: list[Any] = [*Progress.get_default_columns()[:3], TimeElapsedColumn(), TimeRemainingColumn()]
    columns.append(TextColumn("{task.fields[note]}"))
    began = time.monotonic()
    with Progress(*columns) as progress:
        bar = progress.add_task("teacher", total=steps, note="")
        for step in range(steps):
            tasks = [sample_task("train", rng, rng.choice((*FAMILIES, "sequence"))) for _ in range(batch)]
            questions, chains = [instruction(*t) for t in tasks], [recipe.chain(t[0]) for t in tasks]
            for _ in range(batch // 3 if step < steps * recipe.walks else 0):
                question, chain = walk(rng)
                questions.append(question)
                chains.append(chain)
            prompts, answers = embed_text(model, tokenizer, questions), response_ids(tokenizer, chains)
            loss = loss_of(model, *training_batch(model.model.embed_tokens, prompts, answers))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            progress.update(bar, advance=1, note=f"loss {loss.item():.4f}")
            if (step + 1) % 500 == 0 or step + 1 == steps:
                with torch.no_grad():
                    prompts = embed_text(model, tokenizer, [instruction(*t) for t in dev])
                    texts = greedy(model, tokenizer, prompts, longest_response=recipe.longest_response)
                right = [extract_answer(response(t[0])) for t in dev]
                score = accuracy(texts, right)
                worst = min(
                    (accuracy(texts[i :: len(FAMILIES)], right[i :: len(FAMILIES)]), f) for i, f in enumerate(FAMILIES)
                )
                elapsed = time.monotonic() - began
                progress.console.print(
                    f"step {step + 1} ({elapsed:.0f} s): dev accuracy {score:.1%}, worst {worst[1]} {worst[0]:.1%}"
                )
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "teacher.pt")
    return model.eval()
