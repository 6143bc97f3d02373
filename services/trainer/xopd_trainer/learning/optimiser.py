"""Adam with a schedule, and the names under which its state and the master weights are checkpointed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from xopd.config.schema import OptimiserSettings
from xopd.families.base import WeightNames
from xopd.weights.base import NamedTensors, TensorsInMemory

MASTER = "master"
"""Stands before the name of a master weight, as `exp_avg` before that of its average."""


def make_optimiser(settings: OptimiserSettings, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Adam or AdamW over the master weights, in the order of `parameters`; its averages are of their dtype."""
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


def optimiser_tensors(
    optimiser: torch.optim.Optimizer,
    family: WeightNames,
    parameters: Mapping[str, nn.Parameter],
    with_masters: bool = False,
) -> NamedTensors:
    """Adam's state as tensors called `exp_avg/NAME`, `exp_avg_sq/NAME` and `step/NAME`; nothing is copied.

    Args:
        optimiser: over `parameters`.
        family: gives the hub's names and shapes, in which the averages are cut as their parameter is. A count of steps
            goes by the first of them.
        parameters: what the optimiser steps, by the policy's names.
        with_masters: also the parameters themselves, as `master/NAME`; for those that are not the policy's own.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        state = dict(optimiser.state.get(parameter, {}))
        if with_masters:
            state[MASTER] = parameter.detach()
        for field, value in state.items():
            if value.dim() == 0:
                tensors[f"{field}/{_first(family, name, parameter)}"] = value
            else:
                tensors.update({f"{field}/{hub}": view for hub, view in family.hub_tensors(name, value)})
    return TensorsInMemory(dict(sorted(tensors.items())))


def load_optimiser_tensors(
    optimiser: torch.optim.Optimizer,
    family: WeightNames,
    parameters: Mapping[str, nn.Parameter],
    tensors: Iterable[tuple[str, Tensor]],
) -> None:
    """Put back what `optimiser_tensors` gave, one tensor after another; masters into `parameters` themselves.

    Raises:
        KeyError: if one belongs to no trained parameter.
    """
    owner = {hub: name for name, parameter in parameters.items() for hub, _ in family.hub_tensors(name, parameter)}
    views: dict[str, Tensor] = {}
    for key, value in tensors:
        field, _, hub = key.partition("/")
        parameter = parameters[owner[hub]]
        state = optimiser.state[parameter]
        if value.dim() == 0 and field != MASTER:
            state[field] = value.clone()
            continue
        if key not in views:
            if field == MASTER:
                whole = parameter.detach()
            else:
                whole = state[field] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
            views.update({f"{field}/{hub}": view for hub, view in family.hub_tensors(owner[hub], whole)})
        views[key].copy_(value)


def _first(family: WeightNames, name: str, parameter: Tensor) -> str:
    return next(iter(family.hub_tensors(name, parameter)))[0]
