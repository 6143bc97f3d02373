"""What a sound file's container says of its size: where that is wrong or left open, and where the file is cut short.

Only the chunk that holds the samples is believed. The size of the whole (RIFF, FORM) is off in many whole files: it
counts padding that is not there, or was written before the end was known. A program that writes to a pipe never learns
its end: then the samples go on until the end of the file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from xopd.data.flac_length import flac_patches

OPEN_END = 2_000_000_000
"""Sizes from here on (bytes) stand for "not known": Kaldi writes this one, sox and ffmpeg larger ones. So does 0."""
MOST_CHUNKS = 512
"""Chunks that are looked at; files have a dozen."""
Order = Literal["little", "big"]
Patch = tuple[int, bytes]
"""Bytes that belong at this place of the file."""


@dataclass(frozen=True)
class Extent:
    """The samples of a file, as far as its container tells.

    present: bytes of samples that are there. missing: bytes that the container promises beyond the file's end; 0 where
    it leaves the size open. patches: what must stand in the file for a decoder to find all that is present.
    """

    present: int = 0
    missing: int = 0
    patches: tuple[Patch, ...] = ()

    def missing_seconds(self, seconds: float) -> float:
        """Length of what is missing, where what is present lasts `seconds`; infinite where nothing is present."""
        if self.missing == 0:
            return 0.0
        return seconds * self.missing / self.present if self.present else float("inf")


@dataclass(frozen=True)
class _Chunk:
    """A chunk: its name, where its payload begins, how long it says it is, and where that is written."""

    name: bytes
    start: int
    size: int
    size_at: int


def extent_of(file: BinaryIO) -> Extent:
    """Look at WAV (RIFF, RIFX, RF64, BW64), AIFF, AU, W64, CAF and FLAC; for other files it knows of nothing.

    Args:
        file: readable and seekable; only headers are read, whatever they say.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(40)
    if head[8:12] == b"WAVE" and head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        return _wave(file, head[:4], size)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(file, size)
    if head[:4] in (b".snd", b"dns."):
        return _au(head, size)
    if head[:4] == b"riff" and head[24:28] == b"wave":
        return _w64(file, size)
    if head[:4] == b"caff":
        return _caf(file, size)
    if head[:4] == b"fLaC":
        return Extent(patches=flac_patches(file, size))
    return Extent()


def patched(data: bytes, extent: Extent) -> bytes:
    """The file with what `extent` says must stand in it."""
    if not extent.patches:
        return data
    mended = bytearray(data)
    for place, right in extent.patches:
        mended[place : place + len(right)] = right
    return bytes(mended)


def _wave(file: BinaryIO, magic: bytes, size: int) -> Extent:
    order: Order = "big" if magic == b"RIFX" else "little"
    long_size: int | None = None
    for chunk in _chunks(file, size, 12, order):
        if chunk.name == b"ds64":
            file.seek(chunk.start + 8)
            long_size = int.from_bytes(file.read(8), order)
        if chunk.name != b"data":
            continue
        rest = size - chunk.start
        said = long_size if chunk.size == 0xFFFFFFFF and long_size is not None else chunk.size
        if said == 0 and _is_chain(file, size, chunk.start, order):
            return Extent()
        present, missing = _there(said, rest)
        if present == said and magic != b"BW64":
            return Extent(present, missing)
        # libsndfile reads RF64 but not BW64, its name in broadcasting; as plain WAV it reads both.
        plain = ((0, b"RIFF"),) if magic in (b"RF64", b"BW64") else ()
        return _extent(present, missing, chunk.size_at, present, order, plain)
    return Extent()


def _aiff(file: BinaryIO, size: int) -> Extent:
    for chunk in _chunks(file, size, 12, "big"):
        if chunk.name == b"SSND":
            file.seek(chunk.start)
            # Two fields precede the samples: an offset to the first of them, and a block size.
            before = 8 + int.from_bytes(file.read(4), "big")
            rest = size - chunk.start - before
            if rest < 0:
                return Extent()
            if chunk.size <= before and _is_chain(file, size, chunk.start + max(chunk.size, 8), "big"):
                return Extent()
            present, missing = _there(chunk.size, rest, before)
            if present + before == chunk.size:
                return Extent(present, missing)
            return _extent(present, missing, chunk.size_at, present + before, "big")
    return Extent()


def _au(head: bytes, size: int) -> Extent:
    order: Order = "big" if head[:4] == b".snd" else "little"
    start, said = int.from_bytes(head[4:8], order), int.from_bytes(head[8:12], order)
    if not 24 <= start <= size:
        return Extent()
    present, missing = _there(said, size - start)
    return Extent(present, missing) if present == said else _extent(present, missing, 8, present, order)


def _w64(file: BinaryIO, size: int) -> Extent:
    for chunk in _chunks(file, size, 40, "little", name=16, length=8, align=8, counts_itself=True):
        if chunk.name[:4] == b"data":
            present, missing = _there(chunk.size + 24, size - chunk.start, 24)
            if present == chunk.size:
                return Extent(present, missing)
            return _extent(present, missing, chunk.size_at, present + 24, "little", length=8)
    return Extent()


def _caf(file: BinaryIO, size: int) -> Extent:
    # Unlike the others this container says openly that it does not know: a size of -1.
    for chunk in _chunks(file, size, 8, "big", length=8, align=1):
        if chunk.name == b"data":
            # A count of edits precedes the samples.
            present, missing = _there(chunk.size, size - chunk.start - 4, 4)
            if present + 4 == chunk.size:
                return Extent(present, missing)
            return _extent(present, missing, chunk.size_at, present + 4, "big", length=8)
    return Extent()


def _extent(
    present: int, missing: int, at: int, right: int, order: Order, more: tuple[Patch, ...] = (), length: int = 4
) -> Extent:
    """The extent of a file in which the number `right` belongs at the place `at`; without it where it has no room."""
    if right >= 256**length:
        return Extent(present, missing)
    return Extent(present, missing, ((at, right.to_bytes(length, order)), *more))


def _there(said: int, rest: int, beside: int = 0) -> tuple[int, int]:
    """Bytes of samples that are present and missing.

    Args:
        said: the size that the container tells.
        rest: bytes from the first sample to the end of the file.
        beside: bytes other than samples that `said` counts.
    """
    rest, promised = max(rest, 0), max(said - beside, 0)
    if promised == 0 or (said >= OPEN_END and promised > rest):
        return rest, 0
    return min(promised, rest), max(promised - rest, 0)


def _chunks(
    file: BinaryIO,
    size: int,
    place: int,
    order: Order,
    *,
    name: int = 4,
    length: int = 4,
    align: int = 2,
    counts_itself: bool = False,
) -> Iterator[_Chunk]:
    """The chunks from `place` on, by their headers: a name, a length, a payload padded to a multiple of `align`.

    With `counts_itself` the length includes the header.
    """
    header = name + length
    for _ in range(MOST_CHUNKS):
        file.seek(place)
        read = file.read(header)
        if len(read) < header:
            return
        said = int.from_bytes(read[name:], order)
        chunk = _Chunk(read[:name], place + header, max(said - header, 0) if counts_itself else said, place + name)
        yield chunk
        place = chunk.start + chunk.size + -chunk.size % align
        if place > size:
            return


def _is_chain(file: BinaryIO, size: int, place: int, order: Order) -> bool:
    """Whether chunks or nothing follow `place`: then a size of 0 before it means that there are no samples."""
    end = place
    for chunk in _chunks(file, size, place, order):
        if not (chunk.name.isascii() and chunk.name.decode("ascii", "replace").isprintable()):
            return False
        end = chunk.start + chunk.size
    return abs(size - end) <= 1
