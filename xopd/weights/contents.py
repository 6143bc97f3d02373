"""What a weight version must hold: the trained tensors of the student's checkpoint, and nothing else.

Held against it before anything is applied, so that a version that is damaged, another model's, or full of NaN leaves
the weights that a pod holds as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from xopd.weights.base import WeightsUnavailableError

if TYPE_CHECKING:
    from torch import Tensor

    from xopd.families import ModelFamily

MAX_HEADER_BYTES = 100_000_000
"""Longest header of a safetensors file, by the format."""
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class TrainedTensors:
    """Names (the hub's) and shapes of the trained tensors, and the number format in which they travel."""

    dtype: str
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, family: ModelFamily, dtype: str) -> TrainedTensors:
        """Those of the checkpoint that `family` has opened, from its files' headers."""
        shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(Path(family.path).glob("*.safetensors")):
            with safe_open(file, framework="pt") as reader:
                for name in reader.keys():  # noqa: SIM118 (a reader is no mapping)
                    if not family.is_frozen(name):
                        shapes[name] = tuple(reader.get_slice(name).get_shape())
        return cls(dtype, shapes)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TrainedTensors:
        """Read back what `as_plain` gave."""
        return cls(plain["dtype"], {name: tuple(shape) for name, shape in plain["shapes"].items()})

    def as_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"dtype": self.dtype, "shapes": {name: list(shape) for name, shape in self.shapes.items()}}

    @property
    def most_bytes(self) -> int:
        """Largest file that can hold them."""
        values = 0
        for shape in self.shapes.values():
            count = 1
            for length in shape:
                count *= length
            values += count
        return values * BYTES[self.dtype] + MAX_HEADER_BYTES

    def check(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Hold a version's tensors against them.

        Raises:
            WeightsUnavailableError: naming the first tensor that is missing, unknown, of another shape or number
                format, or not finite.
        """
        where = f"weight version {version}"
        for what, names in (("lacks", set(self.shapes) - set(tensors)), ("holds", set(tensors) - set(self.shapes))):
            if names:
                known = "which the student's checkpoint has" if what == "lacks" else "which is no trained tensor here"
                raise WeightsUnavailableError(
                    f"{where} {what} {min(names)[:200]!r}, {known} ({len(names)} such tensors)"
                )
        for name, tensor in tensors.items():
            if tuple(tensor.shape) != self.shapes[name]:
                raise WeightsUnavailableError(
                    f"{where}: {name} has the shape {list(tensor.shape)}, not {list(self.shapes[name])}"
                )
            dtype = str(tensor.dtype).removeprefix("torch.")
            if dtype != self.dtype:
                raise WeightsUnavailableError(f"{where}: {name} is {dtype}, not {self.dtype} (student.dtype)")
            # NaN and infinity survive in the extremes, which take no copy of the tensor.
            if tensor.numel() and not all(extreme.isfinite() for extreme in tensor.aminmax()):
                raise WeightsUnavailableError(f"{where}: {name} holds NaN or infinity")
