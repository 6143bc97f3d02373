"""Adam with a schedule, and the names under which its state is checkpointed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from xopd.config.schema import OptimiserSettings


def make_optimiser(settings: OptimiserSettings, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Adam or AdamW over the trained parameters, in the order of `parameters`."""
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(
        list(parameters.values()),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


def learning_rate(settings: OptimiserSettings, step: int, steps: int) -> float:
    """Learning rate of optimiser step `step` (1 to `steps`): linear warm-up, then the schedule's decay towards 0."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    share = (step - 1 - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    if settings.schedule == "linear":
        return settings.learning_rate * (1.0 - share)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
    return settings.learning_rate


def optimiser_tensors(optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Adam's state as tensors called `exp_avg/NAME`, `exp_avg_sq/NAME` and `step/NAME`."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value.detach().clone()
    return tensors


def load_optimiser_tensors(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimiser_tensors` gave."""
    for key, value in tensors.items():
        field, _, name = key.partition("/")
        optimiser.state[parameters[name]][field] = value.clone()
