"""The vLLM engine: log-probabilities of the prompt, where the prompt is x_t followed by y.

    vLLM gives for each position i of its prompt z:    log π_T(z_i | z_<i)
    with z = x_t y, response token t stands at i = P + t

Each response carries its prompt along; vLLM does not use its prefix cache for prompt log-probabilities, so unlike the
transformers engine it computes the prompt once a response. It is for models that need vLLM's kernels or its reach.

Where the output head is padded, vLLM is told that the vocabulary ends with the tokenizer's: it cuts the logits there
before it normalises or samples, so padding has no mass, is never among the top k and is never generated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xopd.config.schema import TeacherSettings
from xopd.errors import UserError, first_line
from xopd.families.checkpoint_files import check_weight_files
from xopd.service.lifecycle import large_imports
from xopd.wire import TokenScores
from xopd_teacher.engines.base import (
    Batch,
    EngineInfo,
    Generated,
    GenerateItem,
    ScoreItem,
    engine_version,
)
from xopd_teacher.engines.checkpoint import check_head, read_config, read_tokens

LOGITS_AT_ONCE = 2**28
"""Most float32 logits that vLLM computes at a time for prompt log-probabilities (1 GiB)."""

MAX_TEMPERATURE = 2.0
"""VLLM refuses higher ones."""


class VllmEngine:
    """Scores with vLLM, in this process."""

    def __init__(self, settings: TeacherSettings) -> None:
        """Load the checkpoint and score a little, so that what vLLM compiles is compiled.

        Raises:
            UserError: for a checkpoint that is missing, damaged or cannot be loaded by vLLM, or whose padding vLLM
                cannot be made to leave out.
        """
        config, tokens = read_config(settings.path), read_tokens(settings.path)
        vocabulary, rows = tokens.vocabulary, int(config.vocab_size)
        check_head(settings.path, vocabulary, rows)
        context = min(int(getattr(config, "max_position_embeddings", settings.token_budget)), settings.token_budget)
        check_weight_files("teacher.path", Path(settings.path))
        # vLLM reads these when it is imported; in one process it starts in seconds, and dies with its service.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        if settings.threads:
            os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))
        try:
            with large_imports():
                from vllm import LLM
        except ImportError as error:
            raise UserError(f"teacher.engine vllm: it cannot be imported ({first_line(error)}); install it.") from None
        try:
            self.llm = LLM(
                settings.path,
                load_format="safetensors",
                dtype=settings.dtype,
                # One more than is scored: vLLM always samples a token after the prompt.
                max_model_len=context,
                max_logprobs=max(settings.max_top_k, 1),
                max_num_batched_tokens=max(256, min(settings.token_budget, LOGITS_AT_ONCE // rows)),
                distributed_executor_backend="uni",
                enforce_eager=True,
                disable_log_stats=True,
            )
        except Exception as error:
            raise UserError(f"teacher.path {settings.path}: vLLM cannot load it ({first_line(error)}).") from None
        if rows > vocabulary.size:
            self._cut_padding(settings.path, vocabulary.size, int(config.hidden_size))
        # At temperature 0 as well, a token with this bias is never taken; the log-probabilities are those without it.
        self._never = dict.fromkeys(tokens.holes, float("-inf")) or None
        self.info = EngineInfo("vllm", engine_version("vllm"), settings.dtype, vocabulary, context - 1, MAX_TEMPERATURE)

    def score(self, items: Sequence[ScoreItem]) -> Batch[tuple[TokenScores, ...]]:
        """See `Engine.score`. The tail is log(1 - sum of the top k): below about 1e-6 only its order is right."""
        from vllm import SamplingParams

        asked = [(item, response) for item in items for response in item.responses]
        outputs = self.llm.generate(
            [{"prompt_token_ids": [*item.prompt, *response.tolist()]} for item, response in asked],
            [SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=item.top_k) for item, _ in asked],
            use_tqdm=False,
        )
        scores = iter(
            _read(output.prompt_logprobs[len(item.prompt) :], response.tolist(), item.top_k)
            for (item, response), output in zip(asked, outputs, strict=True)
        )
        answers = [tuple(next(scores) for _ in item.responses) for item in items]
        return Batch(answers, sum(len(item.prompt) + len(response) for item, response in asked), 0)

    def generate(self, items: Sequence[GenerateItem]) -> Batch[Generated]:
        """See `Engine.generate`."""
        from vllm import SamplingParams

        outputs = self.llm.generate(
            [{"prompt_token_ids": list(item.prompt)} for item in items],
            [
                SamplingParams(
                    temperature=item.temperature,
                    max_tokens=item.max_new_tokens,
                    stop_token_ids=sorted(item.stop_token_ids),
                    # Only the caller's stop tokens end a response, not the checkpoint's own.
                    ignore_eos=True,
                    seed=item.seed,
                    logprobs=0,
                    logit_bias=self._never,
                    detokenize=False,
                )
                for item in items
            ],
            use_tqdm=False,
        )
        answers = []
        for output in outputs:
            ids = [int(token) for token in output.outputs[0].token_ids]
            steps = output.outputs[0].logprobs
            logprobs = [step[token].logprob for token, step in zip(ids, steps, strict=True)]
            answers.append(Generated(np.asarray(ids, dtype=np.int64), np.asarray(logprobs, dtype=np.float32)))
        forward = sum(len(item.prompt) + len(answer.token_ids) for item, answer in zip(items, answers, strict=True))
        return Batch(answers, forward, 0)

    def _cut_padding(self, path: str, size: int, hidden_size: int) -> None:
        """Have vLLM compute logits for the first `size` rows of the head alone, and see that it does.

        Raises:
            UserError: if it does not.
        """
        cut: Callable[[Any], int] = partial(_cut_padding, size=size, hidden_size=hidden_size)
        try:
            found = self.llm.apply_model(cut)
        except Exception as error:
            found, reason = [], f" ({first_line(error)})"
        else:
            reason = f" ({found[0]} logits for {size} tokens)" if found else ""
        if set(found) != {size}:
            raise UserError(
                f"teacher.path {path}: its output head is padded, and vLLM cannot be made to leave the padding"
                f" out{reason}; set teacher.engine to transformers."
            )


def _cut_padding(model: Any, size: int, hidden_size: int) -> int:
    """Cut the logits of vLLM's `model` at `size`; gives how many logits a position has then.

    vLLM cuts off the rows by which it pads a head itself, and takes the checkpoint's own for tokens.
    """
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    for module in model.modules():
        if isinstance(module, LogitsProcessor):
            module.org_vocab_size = min(module.org_vocab_size, size)
    weight = next(model.parameters())
    with torch.inference_mode():
        logits = model.compute_logits(weight.new_zeros(1, hidden_size))
    return int(logits.shape[-1])


def _read(positions: Sequence[Mapping[int, Any]], tokens: Sequence[int], top_k: int) -> TokenScores:
    """VLLM's entries for the positions of a response: token id to an object with `logprob` and `rank`."""
    logprobs = np.asarray([at[token].logprob for at, token in zip(positions, tokens, strict=True)], dtype=np.float32)
    best = [sorted(((e.rank, token, e.logprob) for token, e in at.items()))[:top_k] for at in positions]
    shape = (len(tokens), top_k)
    ids = np.asarray([[token for _, token, _ in row] for row in best], dtype=np.int32).reshape(shape)
    tops = np.asarray([[logprob for _, _, logprob in row] for row in best], dtype=np.float32).reshape(shape)
    if top_k == 0:
        return TokenScores(logprobs, ids, tops, np.empty(0, dtype=np.float32))
    rest = 1.0 - np.exp(tops.astype(np.float64)).sum(axis=-1)
    # The float32 inputs leave an error of about 1e-7 in the sum: what is smaller than that cannot be told from 0.
    tails = np.log(np.maximum(rest, np.finfo(np.float32).eps))
    return TokenScores(logprobs, ids, tops, np.minimum(tails, 0.0).astype(np.float32))
