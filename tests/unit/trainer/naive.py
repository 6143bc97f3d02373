"""Plain transformers, one response at a time over the whole sequence, the audio through the tower's full window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration, Qwen2ForCausalLM
from xopd_trainer.batch import ScoredGroup, ScoredTrajectory

from xopd.families import ModelFamily
from xopd.wire import TokenScores


class PlainStudent:
    """The student as transformers has it."""

    def __init__(self, path: Path, family: ModelFamily, dtype: torch.dtype = torch.float32) -> None:
        self.family = family
        self._spoken: dict[tuple[str, str], tuple[list[int], dict[str, Tensor]]] = {}
        self.model = Qwen2AudioForConditionalGeneration.from_pretrained(path, dtype=dtype).eval()
        for part in (self.model.model.audio_tower, self.model.model.multi_modal_projector):
            part.requires_grad_(False)

    def logits(self, group: ScoredGroup, row: ScoredTrajectory, given_text: bool = False) -> Tensor:
        """Logits that predict the response, shape [tokens, vocabulary]; `given_text`: after the text prompt."""
        prompt, inputs = self._prompt(group, given_text)
        ids = torch.tensor([[*prompt, *row.token_ids]])
        output = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs)
        return output.logits[0, len(prompt) - 1 : -1]

    def cross_entropy(self, group: ScoredGroup, row: ScoredTrajectory) -> Tensor:
        """The loss that the model itself gives for labels of -100 on the prompt."""
        prompt, inputs = self._prompt(group, False)
        ids = torch.tensor([[*prompt, *row.token_ids]])
        labels = torch.tensor([[*[-100] * len(prompt), *row.token_ids]])
        return self.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, **inputs).loss

    def _prompt(self, group: ScoredGroup, given_text: bool) -> tuple[list[int], dict[str, Tensor]]:
        if group.audio is None or given_text:
            return list(group.text_prompt_token_ids), {}
        if group.audio not in self._spoken:
            self._spoken[group.audio] = self._process(group)
        return self._spoken[group.audio]

    def _process(self, group: ScoredGroup) -> tuple[list[int], dict[str, Tensor]]:
        wave, _ = soundfile.read(group.audio[0], dtype="float32")
        text = self.family.tokenizer.decode(group.prompt_token_ids)
        inputs = dict(self.family.processor(text=text, audio=[wave], sampling_rate=16000, return_tensors="pt"))
        prompt = inputs.pop("input_ids")[0].tolist()
        inputs.pop("attention_mask")
        return prompt, inputs


class PlainTeacher:
    """The teacher as transformers has it; it reads the text prompt, which both sides write alike here."""

    def __init__(self, path: Path) -> None:
        self.model = Qwen2ForCausalLM.from_pretrained(path).eval()

    @torch.no_grad()
    def logprobs(self, group: ScoredGroup, row: ScoredTrajectory) -> Tensor:
        """log π_T at the response's tokens, shape [tokens, vocabulary]."""
        prompt = group.text_prompt_token_ids
        logits = self.model(torch.tensor([[*prompt, *row.token_ids]])).logits[0, len(prompt) - 1 : -1]
        return torch.log_softmax(logits, -1)

    def score(self, group: ScoredGroup, top_k: int, on_policy: bool = False) -> ScoredGroup:
        """The group with this teacher's scores; `on_policy`: as if the teacher had sampled the responses."""
        rows = []
        for row in group.trajectories:
            logprobs = self.logprobs(group, row)
            chosen = logprobs[torch.arange(len(row.token_ids)), torch.as_tensor(row.token_ids)].numpy()
            best = logprobs.topk(min(top_k, logprobs.shape[-1] - 1))
            tail = logprobs.scatter(-1, best.indices, -torch.inf).logsumexp(-1).numpy()
            score = TokenScores(
                chosen,
                best.indices.numpy().astype(np.int32),
                best.values.numpy(),
                tail if top_k else np.empty(0, np.float32),
            )
            behaviour = chosen if on_policy and row.sampled else row.behaviour_logprobs
            rows.append(replace(row, teacher=score, behaviour_logprobs=behaviour))
        return replace(group, trajectories=tuple(rows))
