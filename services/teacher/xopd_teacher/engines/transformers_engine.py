"""The default engine: transformers, one forward pass over each distinct prompt for all the responses that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from xopd.config.schema import TeacherSettings
from xopd.errors import UserError, first_line
from xopd.families.checkpoint_files import check_weight_files
from xopd.forward import Prefix, left_padded, read_prompts, read_responses, text_positions
from xopd.objective import Head, TopReadout, read_top
from xopd.wire import TokenScores
from xopd_teacher.engines.base import Batch, EngineInfo, Floats, Generated, GenerateItem, Ids, ScoreItem
from xopd_teacher.engines.checkpoint import check_head, read_config, read_tokens
from xopd_teacher.engines.decoding import decode
from xopd_teacher.engines.packing import Row, pack, runs_within

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}
"""Largest mean difference (nats) from plain forward passes that the check at start-up lets through."""

CPU_PASS_TOKENS = 2048
"""Most tokens in one pass without a GPU: 16,384 were a quarter slower with a million parameters, and padded thrice as
much."""


class TransformersEngine:
    """Scores with a causal language model of transformers, on the GPU where there is one."""

    def __init__(self, settings: TeacherSettings) -> None:
        """Load the checkpoint, and check on a small batch that shared prompts give what plain passes give.

        Raises:
            UserError: for a checkpoint that is missing, damaged, or of an architecture that cannot be scored so.
        """
        if settings.threads:
            torch.set_num_threads(settings.threads)
        config, tokens = read_config(settings.path), read_tokens(settings.path)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        check_weight_files("teacher.path", Path(settings.path))
        self.model = _load(settings).to(self.device).eval()
        self.decoder = self.model.base_model
        on_gpu = self.device.type == "cuda"
        self.token_budget = settings.token_budget if on_gpu else min(settings.token_budget, CPU_PASS_TOKENS)
        head = self.model.get_output_embeddings()
        check_head(settings.path, tokens.vocabulary, int(head.weight.shape[0]))
        self.head = Head(head.weight, head.bias).first(tokens.vocabulary.size)
        self.holes = tokens.holes
        context = int(getattr(config, "max_position_embeddings", settings.token_budget))
        self.info = EngineInfo(
            "transformers",
            version("transformers"),
            settings.dtype,
            tokens.vocabulary,
            min(context, settings.token_budget),
        )
        self._check(settings)

    @torch.inference_mode()
    def score(self, items: Sequence[ScoreItem]) -> Batch[tuple[TokenScores, ...]]:
        """See `Engine.score`."""
        found: dict[tuple[int, int], TokenScores] = {}
        forward = padding = 0
        for prompt_pass in pack(items, self.token_budget):
            prefix = self._read_prompts(prompt_pass.prompts)
            forward += prefix.mask.numel()
            padding += prefix.mask.numel() - int(prefix.mask.sum())
            for rows in prompt_pass.row_passes:
                hidden, width = self._read_responses(prefix, rows)
                forward += len(rows) * width
                padding += sum(width + 1 - len(row.tokens) for row in rows)
                self._read(rows, hidden, found)
        answers = [tuple(found[i, r] for r in range(len(item.responses))) for i, item in enumerate(items)]
        return Batch(answers, forward, padding)

    @torch.inference_mode()
    def generate(self, items: Sequence[GenerateItem]) -> Batch[Generated]:
        """See `Engine.generate`."""
        answers: dict[int, Generated] = {}
        forward = padding = 0
        longest_answer = max(item.max_new_tokens for item in items)
        for run in runs_within(range(len(items)), lambda i: len(items[i].prompt), longest_answer, self.token_budget):
            prefix = self._read_prompts([items[i].prompt for i in run])
            generated, steps = decode(self.decoder, self.head, self.holes, prefix, [items[i] for i in run])
            answers.update(zip(run, generated, strict=True))
            forward += prefix.mask.numel() + steps
            padding += prefix.mask.numel() - int(prefix.mask.sum())
        return Batch([answers[i] for i in range(len(items))], forward, padding)

    def _read_prompts(self, prompts: Sequence[tuple[int, ...]]) -> Prefix:
        ids, mask = left_padded([torch.tensor(prompt) for prompt in prompts])
        mask = mask.to(self.device)
        return read_prompts(self.decoder, ids.to(self.device), mask, text_positions(mask))

    def _read_responses(self, prefix: Prefix, rows: Sequence[Row]) -> tuple[Tensor, int]:
        """Hidden states that predict the tokens of `rows`, one after the other: [sum of T, d]; and the pass's width."""
        slots = torch.tensor([row.prompt for row in rows], device=self.device)
        ids = pad_sequence([torch.from_numpy(row.tokens) for row in rows], batch_first=True).to(self.device)
        lengths = torch.tensor([len(row.tokens) for row in rows], device=self.device)
        real = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
        return read_responses(self.decoder, prefix, slots, ids, real)[real], ids.shape[1] - 1

    def _read(self, rows: Sequence[Row], hidden: Tensor, found: dict[tuple[int, int], TokenScores]) -> None:
        """Read the scores of `rows` from their hidden states [sum of T, d] into `found`."""
        per_row = torch.split(hidden, [len(row.tokens) for row in rows])
        for top_k in sorted({row.top_k for row in rows}):
            chosen = [i for i, row in enumerate(rows) if row.top_k == top_k]
            states = hidden if len(chosen) == len(rows) else torch.cat([per_row[i] for i in chosen])
            targets = torch.from_numpy(np.concatenate([rows[i].tokens for i in chosen])).to(self.device)
            together = _as_scores(read_top(self.head, states, targets, top_k), top_k)
            start = 0
            for i in chosen:
                part = slice(start, start + len(rows[i].tokens))
                start = part.stop
                found[rows[i].item, rows[i].response] = together.part(part)

    @torch.inference_mode()
    def _check(self, settings: TeacherSettings) -> None:
        """Compare ragged responses on shared prompts with one plain forward pass each, and warm the model up."""
        rng = np.random.default_rng(0)
        items = []
        for prompt_length, lengths in ((3, (1, 4)), (7, (6, 2, 5))):
            tokens = rng.integers(0, self.info.vocabulary.size, (len(lengths) + 1, 8))
            responses = tuple(row[:length] for row, length in zip(tokens[1:], lengths, strict=True))
            items.append(ScoreItem(tuple(tokens[0, :prompt_length].tolist()), responses))
        scored = np.concatenate([s.logprobs for answer in self.score(items).answers for s in answer])
        plain = np.concatenate([self._plain(item.prompt, response) for item in items for response in item.responses])
        if not np.isfinite(plain).all():
            raise UserError(
                f"teacher.path {settings.path}: the model gives log-probabilities that are not finite;"
                " the checkpoint is damaged, or needs another teacher.dtype."
            )
        if np.abs(scored - plain).mean() > TOLERANCE[settings.dtype]:
            raise UserError(
                f"teacher.path {settings.path}: a {type(self.model).__name__} cannot be scored on shared prompts"
                " by the transformers engine; set teacher.engine to vllm."
            )

    def _plain(self, prompt: tuple[int, ...], response: Ids) -> Floats:
        ids = torch.tensor([[*prompt, *response.tolist()]], device=self.device)
        logits = self.model(input_ids=ids).logits[0, :, : self.info.vocabulary.size]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        predicting = logprobs[len(prompt) - 1 : -1]
        plain: Floats = predicting.gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu().numpy()
        return plain


def _as_scores(read: TopReadout, top_k: int) -> TokenScores:
    buckets = read.buckets.cpu().numpy()
    tail = buckets[:, -1] if top_k else buckets[:0, -1]
    ids = read.top_token_ids.cpu().numpy().astype(np.int32)
    return TokenScores(read.logprobs.cpu().numpy(), ids, buckets[:, :-1], tail)


def _load(settings: TeacherSettings) -> Any:
    disable_progress_bar()
    try:
        model, about = AutoModelForCausalLM.from_pretrained(
            settings.path,
            dtype=getattr(torch, settings.dtype),
            output_loading_info=True,
            local_files_only=True,
            use_safetensors=True,
        )
    except Exception as error:
        raise UserError(
            f"teacher.path {settings.path}: cannot be loaded as a causal language model ({first_line(error)})."
        ) from None
    if about["missing_keys"]:
        # transformers would fill them with random numbers and go on.
        raise UserError(
            f"teacher.path {settings.path}: the checkpoint lacks {len(about['missing_keys'])} tensors, such as"
            f" {min(about['missing_keys'])}; copy it again."
        )
    for parameter in model.parameters():
        # safetensors maps the file into memory: written over in place, it would change the teacher under us.
        parameter.data = parameter.data.clone()
    return model
