"""What a weight version must hold: the trained tensors of the student's checkpoint, and nothing else.

Held against it before anything is applied, so that a version that is damaged, another model's, or full of NaN leaves
the weights that a pod holds as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from xopd.weights.base import TensorSpec, WeightsUnavailableError

if TYPE_CHECKING:
    from torch import Tensor

    from xopd.families import ModelFamily

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
    def most_header_bytes(self) -> int:
        """Longest header of a safetensors file of them: names escaped, offsets and shapes of many digits, metadata."""
        names = sum(6 * len(name) + 24 * len(shape) for name, shape in self.shapes.items())
        return names + 256 * len(self.shapes) + 2**16

    @property
    def most_bytes(self) -> int:
        """Largest safetensors file that can hold them."""
        values = sum(math.prod(shape) for shape in self.shapes.values())
        return values * BYTES[self.dtype] + self.most_header_bytes

    def check_specs(self, version: int, specs: Sequence[TensorSpec]) -> None:
        """Hold what a version says of its tensors against them.

        Raises:
            WeightsUnavailableError: naming the first tensor that is missing, unknown, or of another shape or number
                format.
        """
        where = f"weight version {version}"
        given = {spec.name for spec in specs}
        for what, names in (("lacks", set(self.shapes) - given), ("holds", given - set(self.shapes))):
            if names:
                known = "which the student's checkpoint has" if what == "lacks" else "which is no trained tensor here"
                raise WeightsUnavailableError(
                    f"{where} {what} {min(names)[:200]!r}, {known} ({len(names)} such tensors)"
                )
        for spec in specs:
            if spec.shape != self.shapes[spec.name]:
                raise WeightsUnavailableError(
                    f"{where}: {spec.name} has the shape {list(spec.shape)}, not {list(self.shapes[spec.name])}"
                )
            if spec.dtype != self.dtype:
                raise WeightsUnavailableError(f"{where}: {spec.name} is {spec.dtype}, not {self.dtype} (student.dtype)")

    def check_values(self, version: int, name: str, tensor: Tensor) -> None:
        """Raise WeightsUnavailableError where the tensor `name` of a version is not finite; takes no copy of it."""
        # NaN and infinity survive in the extremes.
        if tensor.numel() and not all(extreme.isfinite() for extreme in tensor.aminmax()):
            raise WeightsUnavailableError(f"weight version {version}: {name} holds NaN or infinity")
