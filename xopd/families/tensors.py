"""A policy's tensors under the names and in the shapes of the hub, whatever its family; none of them is copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from xopd.families.base import WeightNames

if TYPE_CHECKING:
    from torch import Tensor, nn


def hub_names(family: WeightNames, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by a policy's own names as views by the hub's, in their order.

    Raises:
        KeyError: if one of them has no place in a checkpoint of the family.
    """
    return {hub: view for name, tensor in tensors.items() for hub, view in family.hub_tensors(name, tensor.detach())}


def hub_state(family: WeightNames, policy: nn.Module) -> dict[str, Tensor]:
    """All tensors that a checkpoint of `policy` holds, as views by hub name; a tied tensor once, by its first name."""
    return hub_names(family, dict(_tensors(policy)))


def load_hub_state(family: WeightNames, policy: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy tensors under hub names into the policy, one after another; unnamed tensors stay.

    Raises:
        KeyError: if the policy has no tensor of such a name.
    """
    own = hub_state(family, policy)
    for name, tensor in tensors:
        if name not in own:
            raise KeyError(f"the policy has no tensor {name!r}")
        own[name].copy_(tensor)


def frozen_digest(family: WeightNames, policy: nn.Module) -> str:
    """SHA-256 over the names and bytes of the policy's frozen tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(hub_state(family, policy).items()):
        if family.is_frozen(name):
            digest.update(name.encode())
            digest.update(bytes_of(tensor))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """The values of a tensor as they lie in memory, row by row; copied only from another device or other strides."""
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _tensors(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then what else a checkpoint holds, each once: a tied one under the first of its names."""
    yield from policy.named_parameters()
    parameters = {name for name, _ in policy.named_parameters(remove_duplicate=False)}
    yield from ((name, tensor) for name, tensor in policy.state_dict().items() if name not in parameters)
