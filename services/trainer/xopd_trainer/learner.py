"""The learner: recomputes log π_θ, forms advantages and ratios, and takes one optimiser step.

Read `step` top to bottom for the whole method. The language model trains; tower and adapter stay as they are, which
`assert_frozen` checks bit for bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xopd.config import Config
from xopd.data.features import FeatureCache
from xopd.families import ModelFamily
from xopd.objective import combine_modalities, modality_loss
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import MODALITY_NAMES
from xopd_trainer.batch import ScoredGroup, collate_responses
from xopd_trainer.optimiser import learning_rate, make_optimiser
from xopd_trainer.policy_forward import embed_prompt, response_logprobs
from xopd_trainer.signals import SignalCollector


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
    tokens: int
    """Response tokens trained on."""


class Learner:
    """Owns the policy and its optimiser."""

    def __init__(self, config: Config, family: ModelFamily, features: FeatureCache) -> None:
        """Load the policy of `config.student`; `features` gives the clips' encoded forms."""
        self.config = config
        self.family = family
        self.features = features
        self.policy: nn.Module = family.load_policy(getattr(torch, config.student.dtype))
        hub = {id(t): name for name, t in self._hub_parameters()}
        self.trained: dict[str, nn.Parameter] = {hub[id(p)]: p for p in self.policy.parameters() if p.requires_grad}
        """Trained parameters by hub name."""
        self.optimiser = make_optimiser(config.optimiser, self.trained)
        self._frozen_digest = self._digest_of_frozen()

    def step(self, step: int, groups: Sequence[ScoredGroup]) -> StepResult:
        """Take optimiser step `step` (counted from 1) on the scored groups of one batch.

        Gradients are summed over micro-batches of one modality each; the result does not depend on the split.
        """
        objective, lambda_ = self.config.objective, self.config.objective.lambda_
        losses = {MODALITY_NAMES[m]: 0.0 for m in MODALITY_NAMES if any(g.modality == m for g in groups)}
        signals = {name: SignalCollector() for name in losses}
        self.optimiser.zero_grad(set_to_none=True)

        for modality, part, totals in self._micro_batches(groups):
            name = MODALITY_NAMES[modality]
            responses = collate_responses(part)
            prompts = self._embed(part)
            policy_logprobs, entropies = response_logprobs(
                self.family, self.policy, prompts, responses.token_ids, responses.mask, responses.per_group
            )
            terms = modality_loss(
                policy_logprobs,
                responses.behaviour_logprobs,
                responses.teacher_logprobs,
                responses.mask,
                aggregation=objective.aggregation,
                advantage_clamp=objective.advantage_clamp,
                ratio_truncation=objective.ratio_truncation,
                total_responses=totals[0],
                total_tokens=totals[1],
            )
            in_modal = modality == pb.MODALITY_TEXT
            combine_modalities(terms.loss if in_modal else None, None if in_modal else terms.loss, lambda_).backward()  # type: ignore[no-untyped-call]
            losses[name] += terms.loss.item()
            signals[name].add(part, responses.mask, terms.advantage, terms.ratio, terms.clipped, entropies)

        rate = learning_rate(self.config.optimiser, step, self.config.run.steps)
        grad_norm = self._gradient_norm()
        loss_in, loss_cross = losses.get("text"), losses.get("speech")
        loss = (1 - lambda_) * (loss_in or 0.0) + lambda_ * (loss_cross or 0.0)
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if finite:
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            self.optimiser.step()
        tokens = sum(len(t.token_ids) for g in groups for t in g.trajectories)
        return StepResult(loss, loss_in, loss_cross, grad_norm, rate, not finite, signals, tokens)

    @torch.inference_mode()
    def logprobs(self, group: ScoredGroup) -> list[NDArray[np.float32]]:
        """Log π_θ of a group's responses under the present weights, each of shape [tokens]."""
        responses = collate_responses([group])
        values, _ = response_logprobs(
            self.family,
            self.policy,
            self._embed([group]),
            responses.token_ids,
            responses.mask,
            responses.per_group,
        )
        return [row[kept].numpy() for row, kept in zip(values, responses.mask, strict=True)]

    def trained_state(self) -> dict[str, Tensor]:
        """A copy of the trained tensors under hub names: what a weight version holds."""
        return {name: parameter.detach().clone().contiguous() for name, parameter in self.trained.items()}

    def assert_frozen(self) -> None:
        """Check that tower and adapter are bit-identical to what was loaded.

        Raises:
            FrozenPartChangedError: if they are not.
        """
        if self._digest_of_frozen() != self._frozen_digest:
            raise FrozenPartChangedError("the audio tower or the adapter changed while training")

    def _micro_batches(
        self, groups: Sequence[ScoredGroup]
    ) -> Iterator[tuple[pb.Modality, Sequence[ScoredGroup], tuple[int, int]]]:
        size = self.config.trainer.micro_batch_groups
        for modality in MODALITY_NAMES:
            # Like lengths together: less padding, same sums.
            chosen = sorted(
                (g for g in groups if g.modality == modality), key=lambda g: (len(g.prompt_token_ids), g.group_id)
            )
            every = [t for g in chosen for t in g.trajectories]
            totals = (len(every), sum(len(t.token_ids) for t in every))
            for start in range(0, len(chosen), size):
                yield modality, chosen[start : start + size], totals

    def _embed(self, groups: Sequence[ScoredGroup]) -> list[Tensor]:
        clips = [group.audio for group in groups if group.audio is not None]
        encoded = iter(self.features.get_many(clips) if clips else [])
        return [
            embed_prompt(
                self.family, self.policy, group.prompt_token_ids, None if group.audio is None else next(encoded)
            )
            for group in groups
        ]

    def _gradient_norm(self) -> float:
        parameters = list(self.trained.values())
        limit = self.config.optimiser.max_grad_norm or math.inf
        return float(nn.utils.clip_grad_norm_(parameters, limit))

    def _hub_parameters(self) -> Iterator[tuple[str, Tensor]]:
        by_storage = {tensor.data_ptr(): name for name, tensor in self.family.hub_state(self.policy).items()}
        for parameter in self.policy.parameters():
            yield by_storage[parameter.data_ptr()], parameter

    def _digest_of_frozen(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.family.hub_state(self.policy).items()):
            if self.family.is_frozen(name):
                digest.update(name.encode())
                digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()
