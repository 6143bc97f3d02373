"""The default engine: transformers, one forward pass over each distinct prompt for all the responses that follow it.

    x_0 … x_{P-1}            forward once; keep the key-value cache and the last hidden state h_{P-1}
    y_0 … y_{T-2}            forward on the repeated cache, at positions P … P+T-2; hidden states h_P … h_{P+T-2}

    log π_T(y_0 | x)         is read from h_{P-1}: the LAST PROMPT position predicts the first response token
    log π_T(y_t | x, y_<t)   is read from h_{P+t-1}

Prompts are padded on the left, so that every cache ends where the response begins; responses on the right.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from xopd.config.schema import TeacherSettings
from xopd.errors import UserError
from xopd.families.checkpoint_files import check_weight_files
from xopd_teacher.engines.base import Batch, EngineInfo, Floats, Generated, GenerateItem, Ids, ResponseScore, ScoreItem
from xopd_teacher.engines.checkpoint import check_head, first_line, read_config, read_tokens
from xopd_teacher.engines.decoding import Prefix, decode
from xopd_teacher.engines.packing import Row, pack, runs_within
from xopd_teacher.engines.readout import read_scores

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
        self.head = self.model.get_output_embeddings()
        on_gpu = self.device.type == "cuda"
        self.token_budget = settings.token_budget if on_gpu else min(settings.token_budget, CPU_PASS_TOKENS)
        self.head_rows = int(self.head.weight.shape[0])
        check_head(settings.path, tokens.vocabulary, self.head_rows)
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
    def score(self, items: Sequence[ScoreItem]) -> Batch[tuple[ResponseScore, ...]]:
        """See `Engine.score`."""
        found: dict[tuple[int, int], ResponseScore] = {}
        forward = padding = 0
        for prompt_pass in pack(items, self.token_budget):
            prefix = self.prefill(prompt_pass.prompts)
            forward += prefix.mask.numel()
            padding += prefix.mask.numel() - int(prefix.lengths.sum())
            for index, rows in enumerate(prompt_pass.row_passes):
                last_use = index == len(prompt_pass.row_passes) - 1
                hidden, width = self._follow(prefix, rows, last_use)
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
            prefix = self.prefill([items[i].prompt for i in run])
            generated, steps = decode(self, prefix, [items[i] for i in run])
            answers.update(zip(run, generated, strict=True))
            forward += prefix.mask.numel() + steps
            padding += prefix.mask.numel() - int(prefix.lengths.sum())
        return Batch([answers[i] for i in range(len(items))], forward, padding)

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> Prefix:
        """Put prompts through the model, padded on the left."""
        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        mask = mask.to(self.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        hidden, cache = self.step(ids.to(self.device), mask, positions, None)
        # A copy: a view would keep the states of the whole prompt alive.
        return Prefix(cache, mask, mask.sum(-1), hidden[:, -1].clone())

    def step(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Forward `ids` [n, w] after what `cache` holds; gives hidden states [n, w, d] and the longer cache.

        mask: [n, cached + w], 0 on padding. positions: [n, w].
        """
        out = self.decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return out.last_hidden_state, out.past_key_values

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., d]: a view without the head's padding."""
        logits: Tensor = self.head(hidden)[..., : self.info.vocabulary.size]
        return logits

    def _follow(self, prefix: Prefix, rows: Sequence[Row], last_use: bool) -> tuple[Tensor, int]:
        """Hidden states that predict the tokens of `rows`, one after the other: [sum of T, d]; and the pass's width."""
        lengths = torch.tensor([len(row.tokens) for row in rows])
        slots = torch.tensor([row.prompt for row in rows], device=self.device)
        first = prefix.last_hidden[slots][:, None]
        longest = int(lengths.max())
        real = (torch.arange(longest) < lengths[:, None]).to(self.device)
        if longest == 1:
            return first[:, 0], 0
        ids = torch.zeros(len(rows), longest - 1, dtype=torch.int64)
        for index, row in enumerate(rows):
            # The last token is predicted, and predicts nothing that is asked for.
            ids[index, : len(row.tokens) - 1] = torch.from_numpy(row.tokens[:-1])
        cache = prefix.cache if last_use else copy.deepcopy(prefix.cache)
        cache.reorder_cache(slots)
        # Padding on the right follows what is read, so causal attention keeps it out of sight; the mask says so too.
        mask = torch.cat([prefix.mask[slots], real[:, 1:].to(prefix.mask.dtype)], dim=1)
        positions = prefix.lengths[slots][:, None] + torch.arange(longest - 1, device=self.device)
        hidden, _ = self.step(ids.to(self.device), mask, positions, cache)
        return torch.cat([first, hidden], dim=1)[real], longest - 1

    def _read(self, rows: Sequence[Row], hidden: Tensor, found: dict[tuple[int, int], ResponseScore]) -> None:
        """Read the scores of `rows` from their hidden states [sum of T, d] into `found`."""
        per_row = torch.split(hidden, [len(row.tokens) for row in rows])
        for top_k in sorted({row.top_k for row in rows}):
            chosen = [i for i, row in enumerate(rows) if row.top_k == top_k]
            states = hidden if len(chosen) == len(rows) else torch.cat([per_row[i] for i in chosen])
            targets = torch.from_numpy(np.concatenate([rows[i].tokens for i in chosen])).to(self.device)
            together = read_scores(self.logits, self.head_rows, states, targets, top_k)
            start = 0
            for i in chosen:
                part = slice(start, start + len(rows[i].tokens))
                start = part.stop
                found[rows[i].item, rows[i].response] = ResponseScore(
                    together.logprobs[part],
                    together.top_token_ids[part],
                    together.top_logprobs[part],
                    together.tail_logprobs[part],
                )

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
