"""The learner: recomputes the policy at the responses' tokens, has the method form its loss, and takes one step.

The loss itself is in `xopd_trainer/methods`, what the optimiser steps in `master_weights.py`, what is observed beside
the loss in `signals.py`, what is written of it in `checkpoint.py` and `export.py`; `handle.py` is what a run sees of it
all. The language model trains; tower and adapter stay as they are, which `assert_frozen` checks bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xopd.config import Config
from xopd.data.audio import AudioError
from xopd.data.features import FeatureCache
from xopd.families import ModelFamily
from xopd.families.tensors import frozen_digest, hub_names
from xopd.objective import Head, Totals, combine_modalities, kl_between
from xopd.telemetry import NO_TRACER, Tracer, child_span
from xopd.v1 import trajectory_pb2 as pb
from xopd.weights.base import NamedTensors, TensorsInMemory
from xopd.wire import MODALITY_NAMES
from xopd_trainer.batch import ResponseTensors, ScoredGroup, collate_responses
from xopd_trainer.learning.master_weights import MasterWeights
from xopd_trainer.learning.optimiser import learning_rate, make_optimiser
from xopd_trainer.learning.policy_forward import read_policy, response_hidden
from xopd_trainer.learning.signals import SignalCollector, gap_groups
from xopd_trainer.methods import Method, PolicyReadout


class FrozenPartChangedError(RuntimeError):
    """The audio tower or the adapter is not what it was: the run must not go on."""


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step did."""

    loss: float
    loss_in: float | None
    loss_cross: float | None
    grad_norm: float
    learning_rate: float
    skipped: bool
    """Loss or gradient were not finite: the weights are unchanged."""
    signals: dict[str, SignalCollector]
    """By modality name."""
    tokens: dict[str, int]
    """Response tokens by stage: `rollout` those sampled, `teacher` those scored, `trainer` all that were trained on."""


class Learner:
    """Owns the policy and its optimiser. For one thread."""

    def __init__(
        self,
        config: Config,
        family: ModelFamily,
        features: FeatureCache,
        method: Method,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """Load the policy of `config.student`; `features` gives the clips' encoded forms, `method` the loss."""
        self.tracer = tracer
        self.config = config
        self.method = method
        self.family = family
        self.features = features
        self.policy: nn.Module = family.load_policy(getattr(torch, config.student.dtype))
        # Each once, also one that is tied to another.
        named = self.policy.named_parameters()
        self.trained: dict[str, nn.Parameter] = {name: p for name, p in named if p.requires_grad}
        """Trained parameters by the policy's own names."""
        self.masters = MasterWeights(self.trained, getattr(torch, config.learner.master_dtype))
        self.optimiser = make_optimiser(config.optimiser, self.masters.weights)
        self.frozen_digest = frozen_digest(family, self.policy)
        """SHA-256 over the frozen tensors, as they were loaded."""

    @property
    def vocabulary_size(self) -> int:
        """Ids that the policy's output head has a row for."""
        return int(self._head.weight.shape[0])

    def unusable_clips(self, groups: Sequence[ScoredGroup]) -> dict[str, AudioError]:
        """The speech groups whose clip cannot be read here, by group id."""
        return unusable_clips(self.features, groups)

    def step(self, step: int, groups: Sequence[ScoredGroup]) -> StepResult:
        """Take optimiser step `step` (counted from 1) on the scored groups of one batch.

        Gradients are summed over micro-batches of one modality each, in `learner.master_dtype`; the result does not
        depend on the split beyond what rounding in the forward and backward pass of `student.dtype` makes of it.
        """
        lambda_ = self.config.objective.lambda_
        losses = {MODALITY_NAMES[m]: 0.0 for m in MODALITY_NAMES if any(g.modality == m for g in groups)}
        signals = self._collectors(groups)
        self.masters.clear_gradients()

        gap_ids = gap_groups(groups, self.config.trainer.gap_groups)
        for modality, part, totals in self._micro_batches(groups):
            name = MODALITY_NAMES[modality]
            with child_span(self.tracer, "micro-batch", {"xopd.modality": name, "xopd.groups": len(part)}):
                responses = collate_responses(part)
                hidden = self._hidden(self._embed(part), responses)
                policy = self._read(hidden, responses)
                terms = self.method.loss(policy, responses, totals)
                in_modal = modality == pb.MODALITY_TEXT
                loss = combine_modalities(terms.loss if in_modal else None, None if in_modal else terms.loss, lambda_)
                loss.backward()  # type: ignore[no-untyped-call]
                losses[name] += terms.loss.item()
                signals[name].add(part, responses, policy, terms.clipped)
                self._observe_gap(part, responses, hidden, gap_ids, signals[name])

        rate = learning_rate(self.config.optimiser, step, self.config.run.steps)
        grad_norm = self.masters.clip_gradients(self.config.optimiser.max_grad_norm)
        loss_in, loss_cross = losses.get("text"), losses.get("speech")
        total = (1 - lambda_) * (loss_in or 0.0) + lambda_ * (loss_cross or 0.0)
        finite = math.isfinite(total) and math.isfinite(grad_norm)
        if finite:
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            with child_span(self.tracer, "optimiser"):
                self.optimiser.step()
                self.masters.round_into_parameters()
        tokens = _tokens_by_stage(groups)
        return StepResult(total, loss_in, loss_cross, grad_norm, rate, not finite, signals, tokens)

    @torch.inference_mode()
    def measure(self, groups: Sequence[ScoredGroup]) -> dict[str, SignalCollector]:
        """The signals of scored groups under the present weights, by modality name; nothing is learnt."""
        signals = self._collectors(groups)
        gap_ids = gap_groups(groups, self.config.trainer.gap_groups)
        for modality, part, _ in self._micro_batches(groups):
            responses = collate_responses(part)
            hidden = self._hidden(self._embed(part), responses)
            observed = signals[MODALITY_NAMES[modality]]
            observed.add(part, responses, self._read(hidden, responses))
            self._observe_gap(part, responses, hidden, gap_ids, observed)
        return signals

    @torch.inference_mode()
    def logprobs(self, group: ScoredGroup) -> list[NDArray[np.float32]]:
        """Log π_θ of a group's responses under the present weights, each of shape [tokens]."""
        responses = collate_responses([group])
        values = self._read(self._hidden(self._embed([group]), responses), responses).logprobs
        return [row[kept].numpy() for row, kept in zip(values, responses.mask, strict=True)]

    def named_tensors(self) -> NamedTensors:
        """The trained tensors as they are now, by hub name and in the hub's shapes; nothing is copied."""
        return TensorsInMemory(dict(sorted(hub_names(self.family, self.trained).items())))

    def assert_frozen(self) -> None:
        """Check that tower and adapter are bit-identical to what was loaded.

        Raises:
            FrozenPartChangedError: if they are not.
        """
        if frozen_digest(self.family, self.policy) != self.frozen_digest:
            raise FrozenPartChangedError("the audio tower or the adapter changed while training")

    def _read(self, hidden: Tensor, responses: ResponseTensors) -> PolicyReadout:
        overlap = self.config.trainer.overlap_top_k
        return read_policy(self._head, hidden, responses, self.method.reads_buckets, overlap)

    def _hidden(self, prompts: Sequence[Tensor], responses: ResponseTensors) -> Tensor:
        """States that predict the tokens of responses, shape [tokens of all responses, hidden size]."""
        hidden = response_hidden(
            self.family, self.policy, prompts, responses.token_ids, responses.mask, responses.per_group
        )
        return hidden[responses.mask]

    @property
    def _head(self) -> Head:
        head = self.family.output_head(self.policy)
        return Head(head.weight, head.bias)  # type: ignore[arg-type]

    def _collectors(self, groups: Sequence[ScoredGroup]) -> dict[str, SignalCollector]:
        found = {g.modality for g in groups}
        return {name: SignalCollector() for m, name in MODALITY_NAMES.items() if m in found}

    @torch.no_grad()
    def _observe_gap(
        self,
        groups: Sequence[ScoredGroup],
        responses: ResponseTensors,
        hidden: Tensor,
        gap_ids: frozenset[str],
        signals: SignalCollector,
    ) -> None:
        """Note KL(π_θ(·|x_s) ‖ π_θ(·|x_t)) on the tokens of some speech groups; `hidden` is that of all groups."""
        compared = [group for group in groups if group.group_id in gap_ids]
        if not compared:
            return
        rows = torch.tensor([g.group_id in gap_ids for g in groups for _ in g.trajectories], device=hidden.device)
        given_speech = hidden[rows[:, None].expand_as(responses.mask)[responses.mask]]
        prompts = [self.family.embed_prompt(self.policy, g.text_prompt_token_ids, None) for g in compared]
        given_text = self._hidden(prompts, collate_responses(compared))
        signals.add_gap(kl_between(self._head, given_speech, given_text))

    def _micro_batches(
        self, groups: Sequence[ScoredGroup]
    ) -> Iterator[tuple[pb.Modality, Sequence[ScoredGroup], Totals]]:
        """Parts of one modality and one source each, with the whole modality's totals."""
        size = self.config.trainer.micro_batch_groups
        for modality in MODALITY_NAMES:
            of_modality = [g for g in groups if g.modality == modality]
            every = [t for g in of_modality for t in g.trajectories]
            totals = Totals(len(every), sum(len(t.token_ids) for t in every))
            for sampled in (True, False):
                # Like lengths together: less padding, same sums.
                chosen = sorted(
                    (g for g in of_modality if g.sampled == sampled),
                    key=lambda g: (len(g.prompt_token_ids), g.group_id),
                )
                for start in range(0, len(chosen), size):
                    yield modality, chosen[start : start + size], totals

    def _embed(self, groups: Sequence[ScoredGroup]) -> list[Tensor]:
        clips = [group.audio for group in groups if group.audio is not None]
        encoded = iter(self.features.get_many(clips) if clips else [])
        return [
            self.family.embed_prompt(
                self.policy, group.prompt_token_ids, None if group.audio is None else next(encoded)
            )
            for group in groups
        ]


def unusable_clips(features: FeatureCache, groups: Sequence[ScoredGroup]) -> dict[str, AudioError]:
    """The speech groups whose clip cannot be read here, by group id; the other clips are in `features` afterwards."""
    spoken = {group.group_id: group.audio for group in groups if group.audio is not None}
    try:
        features.get_many(list(spoken.values()))
    except AudioError:
        return {group_id: error for group_id, clip in spoken.items() if (error := _fault(features, *clip)) is not None}
    return {}


def _fault(features: FeatureCache, uri: str, sha256: str) -> AudioError | None:
    try:
        features.get(uri, sha256)
    except AudioError as error:
        return error
    return None


def _tokens_by_stage(groups: Sequence[ScoredGroup]) -> dict[str, int]:
    rows = [(len(t.token_ids), t) for g in groups for t in g.trajectories]
    return {
        "rollout": sum(length for length, t in rows if t.sampled),
        "teacher": sum(length for length, t in rows if t.teacher is not None),
        "trainer": sum(length for length, _ in rows),
    }
