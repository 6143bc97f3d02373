"""Hold a checkpoint's files against what they say of themselves, by their headers: no tensor is read, no torch needed.

A download that was interrupted, a clone without git-lfs, a shard that was forgotten: each ends in a library's own
exception long after the start, or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open

from xopd.errors import UserError
from xopd.files import EncodingError, read_text
from xopd.jsonl import NOT_JSON

LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, which is JSON; the tensors follow without gaps."""
LONGEST_HEADER = 100_000_000
"""Bytes; the safetensors library reads no longer one."""
POINTER = b"version https://git-lfs"
INDEX = "*.safetensors.index.json"
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5", "*.gguf")


def check_weight_files(setting: str, folder: Path) -> None:
    """Check that the weights of the checkpoint in `folder` are all there: every shard, each to its last byte.

    Args:
        setting: what named the folder, such as `teacher.path`.
        folder: the checkpoint.

    Raises:
        UserError: for the first file at fault, with the setting, the file and the fault.
    """
    files = sorted(folder.glob("*.safetensors"))
    indices = sorted(folder.glob(INDEX))
    if not files and not indices:
        _refuse_no_weights(setting, folder)
    tensors = {file.name: _tensors_in(setting, file) for file in files}
    for index in indices:
        _check_index(setting, index, tensors)


def read_checkpoint_config(setting: str, folder: Path) -> dict[str, Any]:
    """The config.json of the checkpoint in `folder`.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{setting} {folder}: holds no config.json; give a checkpoint folder.")
    found = _read_json(setting, path)
    if not found.get("model_type"):
        raise UserError(f"{setting} {path}: names no model_type; give a checkpoint folder in the hub's layout.")
    return found


def _refuse_no_weights(setting: str, folder: Path) -> NoReturn:
    others = sorted(file.name for pattern in OTHER_WEIGHTS for file in folder.glob(pattern))
    if others:
        # Such files are pickles, or another program's; neither is read.
        raise UserError(
            f"{setting} {folder}: holds no safetensors file, only {others[0]}, which is not read; save the checkpoint"
            " as safetensors."
        )
    raise UserError(f"{setting} {folder}: holds no safetensors file; give a checkpoint folder.")


def _tensors_in(setting: str, path: Path) -> frozenset[str]:
    """Names of a file's tensors. Raises UserError for a file that is not whole."""
    where = f"{setting} {path}"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(len(POINTER))
            _refuse_pointer(where, head)
            length = int.from_bytes(head[:LENGTH_BYTES], "little")
            if len(head) <= LENGTH_BYTES or (length <= LONGEST_HEADER and head[LENGTH_BYTES:].startswith(b"{")):
                file.seek(LENGTH_BYTES)
                header = file.read(length)
                _refuse_cut(where, size, LENGTH_BYTES + max(length, 1))
                _refuse_cut(where, size, LENGTH_BYTES + length + _last_byte(header))
        # What else can be wrong, such as an overlap, the library knows.
        with safe_open(path, framework="numpy") as reader:
            return frozenset(reader.keys())
    except OSError as error:
        raise UserError(
            f"{where}: cannot be read ({error.strerror or error}); correct the file or its rights."
        ) from None
    except SafetensorError as error:
        raise UserError(f"{where}: is no whole safetensors file ({error}); copy it again.") from None


def _refuse_pointer(where: str, head: bytes) -> None:
    if not head:
        raise UserError(f"{where}: is empty; copy it again.")
    if head.startswith(POINTER):
        raise UserError(f"{where}: is a pointer of git-lfs in the place of the file; run `git lfs pull` there.")


def _refuse_cut(where: str, size: int, needed: int) -> None:
    if size < needed:
        raise UserError(f"{where}: is cut short ({size:,} of {needed:,} bytes); copy it again.")


def _last_byte(header: bytes) -> int:
    """Where the last tensor ends, from the end of the header on (bytes); 0 where the header does not tell."""
    try:
        entries = json.loads(header)
        return max(int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__")
    except (*NOT_JSON, AttributeError, KeyError, IndexError, TypeError):
        return 0


def _check_index(setting: str, index: Path, tensors: dict[str, frozenset[str]]) -> None:
    """Hold the places that an index gives to tensors against the shards. Raises UserError."""
    places = _read_json(setting, index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise UserError(f"{setting} {index}: holds no `weight_map` of tensors to files; copy it again.")
    for shard in sorted(set(places.values())):
        if shard not in tensors:
            of = f"{_count(tensor for tensor in places if places[tensor] == shard):,} of {len(places):,} tensors"
            raise UserError(f"{setting} {index.parent / shard}: is missing, and {index.name} has {of} there; copy it.")
    for tensor, shard in sorted(places.items()):
        if tensor not in tensors[shard]:
            raise UserError(
                f"{setting} {index.parent / shard}: lacks the tensor {tensor}, which {index.name} has there; copy"
                " the checkpoint again."
            )


def _read_json(setting: str, path: Path) -> dict[str, Any]:
    """The object that a JSON file of a checkpoint holds. Raises UserError."""
    where = f"{setting} {path}"
    try:
        with path.open("rb") as file:
            head = file.read(len(POINTER))
        _refuse_pointer(where, head)
        if head.startswith(b"\xef\xbb\xbf"):
            # transformers and vLLM read it on their own, and refuse the mark as no JSON.
            raise UserError(f"{where}: begins with a byte order mark; save it as UTF-8 without one.")
        found = json.loads(read_text(path))
    except EncodingError as error:
        raise UserError(f"{where}: cannot be read: {error}.") from None
    except OSError as error:
        raise UserError(
            f"{where}: cannot be read ({error.strerror or error}); correct the file or its rights."
        ) from None
    except NOT_JSON as error:
        raise UserError(f"{where}: is no JSON ({error}); copy it again.") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: holds no JSON object; copy it again.")
    return found


def _count(items: Iterable[object]) -> int:
    return sum(1 for _ in items)
