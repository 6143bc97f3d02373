"""What every weight transport is made of: the sender in the trainer, the receiver in a pod, the tensors between them.

The trainer sends a version and announces the manifest that it gets back; whoever holds a manifest can fetch what it
names. Neither side ever holds a second copy of the model: tensors pass one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from xopd.v1 import weights_pb2 as pb

if TYPE_CHECKING:
    from torch import Tensor


class WeightsUnavailableError(RuntimeError):
    """A version cannot be fetched, or is not what its manifest or the student's checkpoint says; the text says how."""


class VersionChangedError(RuntimeError):
    """A version was sent before with other tensors: what pods may hold under its number stays as it is."""


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, without its values."""

    name: str
    """The name in the student's checkpoint (the hub's)."""
    shape: tuple[int, ...]
    dtype: str
    """As torch names it, without the prefix: `float32`, `bfloat16`."""

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> TensorSpec:
        """That of `tensor`."""
        return cls(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


class NamedTensors(Protocol):
    """Tensors that are known by `specs` before any of them is there, and can be walked through any number of times.

    An implementation makes each tensor when it is asked for (gathers it from ranks, casts it), so that one at a time
    is in memory.
    """

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """Of all tensors, in the order of iteration."""
        ...

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) in the order of `specs`: on any device, of any strides, as its spec says."""
        ...


class TensorsInMemory:
    """`NamedTensors` over tensors that are there already, such as a policy's parameters; nothing is copied."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Walk through `tensors` in their order."""
        self._tensors = tensors

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """Of all tensors, in the order of iteration."""
        return [TensorSpec.of(name, tensor) for name, tensor in self._tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor), cut off from the graph."""
        for name, tensor in self._tensors.items():
            yield name, tensor.detach()


class WeightSender(Protocol):
    """The trainer's side: makes versions available to the pods."""

    transport: str
    """As the manifests name it."""
    place: str
    """Where versions go, as a user would put it right: a setting and its value, such as `weights.uri /mnt/weights`."""

    def clear(self) -> None:
        """Remove what earlier lives of the trainer left; called once, by the trainer that leads the run."""
        ...

    def send(self, version: int, tensors: NamedTensors) -> pb.WeightManifest:
        """Make `tensors` available as policy version `version`; nobody hears of it before the manifest is announced.

        Blocks until the version can be fetched, or, for a transport that pods take part in, until it can be asked
        for. A version may be sent again, where it was lost.

        Raises:
            VersionChangedError: if the version was sent before with other tensors; nothing is changed.
            OSError: if it cannot be sent now, such as on a full disk; nothing is left behind.
        """
        ...

    def fault_of(self, manifest: pb.WeightManifest) -> str | None:
        """What is wrong with a sent version, as a clause; None where it can be fetched and is what it says."""
        ...


class WeightReceiver(Protocol):
    """A pod's side, in each process that holds a part of the model."""

    def misconfigured(self, manifest: pb.WeightManifest) -> str | None:
        """Why this pod can fetch no version at all, as a sentence for its user; None where it may.

        Reads no tensor: the pod asks it before its engine is stopped.
        """
        ...

    def check(self, manifest: pb.WeightManifest) -> None:
        """Hold a version against its manifest and the student's checkpoint; applies nothing, keeps digests alone.

        Raises:
            WeightsUnavailableError: if it cannot be fetched or is not what it must be.
        """
        ...

    def tensors(self, manifest: pb.WeightManifest) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of the version that was checked last, under hub names, one at a time.

        A tensor that is not what was checked is not yielded.

        Raises:
            WeightsUnavailableError: if the version is not what `check` has seen.
        """
        ...
