"""The safetensors format as a stream: a header made from specs, then tensor after tensor, written or read in turn.

The library (0.8) writes from tensors that are all in memory and reads local files as a whole or by mapping them. Here
one tensor is in memory at a time, and a file is any object with `write` or `readinto`, such as one of fsspec's.
Format: https://huggingface.co/docs/safetensors: 8 bytes of length (little-endian), a JSON object
`{name: {dtype, shape, data_offsets}}`, then the values without gaps.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json
from torch import Tensor

from xopd.families.tensors import bytes_of
from xopd.weights.base import NamedTensors, TensorSpec

CHUNK = 2**24
"""Most bytes that pass in one call: what a remote file buffers beside the tensor."""
LENGTH_BYTES = 8
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Number formats: torch's names, and those of the format."""


class FormatError(ValueError):
    """Bytes that are no safetensors file; the text, a clause, says why."""


class Writable(Protocol):
    """A file that is written front to back."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take all of `data`."""
        ...


class Readable(Protocol):
    """A file that is read front to back."""

    def fill(self, view: memoryview) -> None:
        """Read exactly as many bytes as `view` has. Raises FormatError where the file ends before."""
        ...


class HashedWriter:
    """A file that is hashed while it is written."""

    def __init__(self, file: Writable) -> None:
        """Write on to `file`."""
        self.size = 0
        """Bytes written."""
        self._file = file
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of what was written so far, as hexadecimal digits."""
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Write `data`, hashed on the way."""
        self._hash.update(data)
        self._file.write(data)
        self.size += len(data)


def write_safetensors(file: Writable, tensors: NamedTensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors` as one safetensors file; of each, one copy on the CPU is in memory while it is written.

    Tensors of larger numbers come first, as the format's own library lays them out, so that all are aligned: one walk
    through `tensors` for each size of number among them.

    Args:
        file: anything with `write`.
        tensors: on any device, of any strides.
        metadata: text that the header carries; the library's readers expect `{"format": "pt"}`.

    Raises:
        ValueError: if two specs have one name, a number format is unknown, or a tensor is not what its spec says.
    """
    specs = tensors.specs
    if len({spec.name for spec in specs}) < len(specs):
        raise ValueError("two tensors have one name")
    unknown = next((spec for spec in specs if spec.dtype not in DTYPES), None)
    if unknown is not None:
        raise ValueError(f"{unknown.name} is {unknown.dtype}, which cannot be written")
    sizes = sorted({_bytes_of(spec.dtype) for spec in specs}, reverse=True)
    file.write(_header([spec for size in sizes for spec in specs if _bytes_of(spec.dtype) == size], metadata))
    for size in sizes:
        # The pair is dropped before the next tensor is made: two would be in memory.
        walk = iter(tensors)
        for spec in specs:
            name, tensor = next(walk)
            if TensorSpec.of(name, tensor) != spec:
                raise ValueError(f"{TensorSpec.of(name, tensor)} came where {spec} was announced")
            if _bytes_of(spec.dtype) == size:
                _write_values(file, tensor)
            del tensor


def read_header(file: Readable, most_bytes: int) -> list[TensorSpec]:
    """Read a file's header: its tensors' specs in the order in which their values follow.

    Args:
        file: at its beginning.
        most_bytes: longest header taken; no more is read.

    Raises:
        FormatError: if it is no header, or its tensors do not follow one another without gaps.
    """
    length = int.from_bytes(_read(file, LENGTH_BYTES), "little")
    if length > most_bytes:
        raise FormatError(f"its header is said to have {length:,} bytes, at most {most_bytes:,} are taken")
    try:
        tree = from_json(_read(file, length))
        entries = ENTRIES.validate_python({k: v for k, v in tree.items() if k != "__metadata__"})
    except (ValidationError, ValueError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError("its header is none") from None
    specs, end = [], 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        spec = TensorSpec(name, tuple(entry.shape), TORCH_NAMES[entry.dtype])
        begin, end_of_this = entry.data_offsets
        if begin != end or end_of_this - begin != size_of(spec):
            raise FormatError(f"the values of {name[:200]!r} do not lie where they must")
        specs.append(spec)
        end = end_of_this
    return specs


def read_tensor(file: Readable, spec: TensorSpec) -> Tensor:
    """Read the values of the next tensor, of which `spec` comes from the header. Raises FormatError at the end."""
    values = torch.empty(size_of(spec), dtype=torch.uint8)
    for view in _chunks(values.numpy().data):
        file.fill(view)
    return values.view(getattr(torch, spec.dtype)).reshape(spec.shape)


def size_of(spec: TensorSpec) -> int:
    """Bytes of a tensor's values."""
    return math.prod(spec.shape) * _bytes_of(spec.dtype)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    dtype: Annotated[str, Field(pattern=f"^({'|'.join(DTYPES.values())})$")]
    shape: list[Annotated[int, Field(ge=0, lt=2**40)]]
    data_offsets: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


ENTRIES = TypeAdapter(dict[str, _Entry])
TORCH_NAMES = {of_format: of_torch for of_torch, of_format in DTYPES.items()}


def _header(specs: Sequence[TensorSpec], metadata: Mapping[str, str] | None) -> bytes:
    tree: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    begin = 0
    for spec in specs:
        end = begin + size_of(spec)
        tree[spec.name] = {"dtype": DTYPES[spec.dtype], "shape": list(spec.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _write_values(file: Writable, tensor: Tensor) -> None:
    for view in _chunks(bytes_of(tensor)):
        file.write(view)


def _chunks(whole: memoryview) -> Iterator[memoryview]:
    for begin in range(0, len(whole), CHUNK):
        yield whole[begin : begin + CHUNK]


def _read(file: Readable, count: int) -> bytearray:
    data = bytearray(count)
    file.fill(memoryview(data))
    return data


def _bytes_of(dtype: str) -> int:
    return int(getattr(torch, dtype).itemsize)
