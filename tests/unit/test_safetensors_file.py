"""Safetensors files written as a stream: the library reads what it would have written itself, and they read it back."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save

from xopd.weights import TensorsInMemory, TensorSpec
from xopd.weights.safetensors_file import CHUNK, FormatError, read_header, read_tensor, write_safetensors

torch.manual_seed(0)
MIXED = {
    "bf16 odd": torch.randn(3).bfloat16(),
    "float32": torch.randn(4, 5),
    "strided": torch.randn(6, 4).t(),
    "cut": torch.randn(8, 8)[::2, 3:],
    "expanded": torch.randn(1, 3).expand(2, 3),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 7),
    "larger than a chunk": torch.randn(CHUNK // 4 + 3),
    "trained": torch.nn.Parameter(torch.randn(2, 2)),
    "float64": torch.randn(2, dtype=torch.float64),
    "whole": torch.arange(5),
    "truth": torch.tensor([True, False]),
    'ü "quoted"\n': torch.ones(1),
}


class Reading:
    """A `Readable` over bytes."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def fill(self, view: memoryview) -> None:
        if self.file.readinto(view) < len(view):
            raise FormatError("it ends too early")


def written(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    write_safetensors(file, TensorsInMemory(tensors), metadata)
    return file.getvalue()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype and tensor.shape == other[name].shape, name
        assert torch.equal(tensor, other[name]), name


def test_the_library_reads_what_is_written(tmp_path: Path):
    data = written(MIXED, {"format": "pt", "why": "a test"})
    dense = {name: tensor.detach().contiguous() for name, tensor in MIXED.items()}
    same(load(data), load(save(dense)))
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    same(load_file(path), dense)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "why": "a test"}


def test_nothing_and_no_metadata_are_files_too():
    assert load(written({})) == {}
    same(load(written({"a": torch.ones(2)})), {"a": torch.ones(2)})


def test_numbers_are_aligned_whatever_the_order():
    data = written({"odd": torch.ones(3, dtype=torch.bool), "half": torch.ones(1).bfloat16(), "full": torch.ones(2)})
    assert [spec.name for spec in read_header(Reading(data), 10_000)] == ["full", "half", "odd"]


def test_what_the_library_writes_is_read_tensor_by_tensor():
    dense = {name: tensor.detach().contiguous() for name, tensor in MIXED.items()}
    for data in (written(MIXED), save(dense), save(dense, {"format": "pt"})):
        file = Reading(data)
        specs = read_header(file, 10_000)
        same({spec.name: read_tensor(file, spec) for spec in specs}, dense)
        with pytest.raises(FormatError, match="ends too early"):
            file.fill(memoryview(bytearray(1)))


class Announced(TensorsInMemory):
    """Tensors that are announced as others."""

    def __init__(self, specs: list[TensorSpec], tensors: dict[str, torch.Tensor]) -> None:
        super().__init__(tensors)
        self._specs = specs

    @property
    def specs(self):
        return self._specs


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ([TensorSpec("a", (3,), "float32")], r"shape=\(2,\).* came where .*shape=\(3,\)"),
        ([TensorSpec("a", (2,), "bfloat16")], "came where"),
        ([TensorSpec("b", (2,), "float32")], "came where"),
        ([TensorSpec("a", (2,), "complex64")], "a is complex64, which cannot be written"),
        ([TensorSpec("a", (2,), "float32")] * 2, "two tensors have one name"),
    ],
)
def test_a_tensor_that_is_not_its_spec_is_not_written(specs, words):
    with pytest.raises(ValueError, match=words):
        write_safetensors(io.BytesIO(), Announced(specs, {"a": torch.zeros(2)}))
