"""The length of a FLAC file whose header leaves it open, as an encoder that writes to a pipe does.

Each frame tells which samples it holds, so the last one tells where the file ends. It is found from the file's end by
its two checksums; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

TAIL_BYTES = 2**19
"""A frame is shorter: 65,535 samples of two channels in 24 bits are 393 KB."""
MOST_FRAMES_TRIED = 8
"""Whole frame headers whose frame is checked to the file's end."""
MOST_HEADERS_TRIED = 4096
"""Places that look like a frame's header; sound has them by chance, one in 32 KiB."""
LENGTH_AT = 18
"""Where the eight bytes stand whose lower 36 bits are the number of samples; 0 is "not known"."""


def flac_patches(file: BinaryIO, size: int) -> tuple[tuple[int, bytes], ...]:
    """What must stand in a FLAC file for its header to tell the length: nothing where it does, or none is found."""
    file.seek(0)
    head = file.read(LENGTH_AT + 8)
    if len(head) < LENGTH_AT + 8 or head[4] & 0x7F != 0:
        return ()
    field = int.from_bytes(head[LENGTH_AT:], "big")
    if field % 2**36:
        return ()
    file.seek(max(LENGTH_AT + 8, size - TAIL_BYTES))
    samples = _samples(file.read(TAIL_BYTES), int.from_bytes(head[8:10], "big"))
    if not 0 < samples < 2**36:
        return ()
    return ((LENGTH_AT, (field + samples).to_bytes(8, "big")),)


def _samples(tail: bytes, block: int) -> int:
    """Samples up to the end of the last whole frame in `tail`, where it ends with it; 0 where there is none.

    block: samples of every frame but the last, in files whose frames are numbered.
    """
    for tried, (place, samples) in enumerate(_frames(tail, block)):
        if tried == MOST_FRAMES_TRIED:
            break
        # A checksum that follows its data brings the checksum of both to 0.
        if _crc(tail[place:], 16, 0x8005) == 0:
            return samples
    return 0


def _frames(tail: bytes, block: int) -> Iterator[tuple[int, int]]:
    """Places where a frame's header stands, from the last on, and the samples of the file up to that frame's end."""
    place, tries = len(tail), 0
    while (place := tail.rfind(b"\xff", 0, place)) >= 0 and tries < MOST_HEADERS_TRIED:
        header = tail[place : place + 16]
        if len(header) < 6 or header[1] & 0xFE != 0xF8:
            continue
        tries += 1
        numbers = _utf8(header[4:])
        if numbers is None:
            continue
        number, at = numbers[0], 4 + numbers[1]
        code, rate = header[2] >> 4, header[2] & 15
        extra = {6: 1, 7: 2}.get(code, 0)
        own = int.from_bytes(header[at : at + extra], "big") + 1 if extra else _block_size(code)
        end = at + extra + {12: 1, 13: 2, 14: 2}.get(rate, 0) + 1
        if own and end <= len(header) and _crc(header[:end], 8, 0x07) == 0:
            # The lowest bit of the sync code: frames tell their first sample, or their number.
            yield place, (number if header[1] & 1 else number * block) + own


def _block_size(code: int) -> int:
    if code == 1:
        return 192
    if 2 <= code <= 5:
        return int(144 * 2**code)
    return int(2**code) if code >= 8 else 0


def _utf8(data: bytes) -> tuple[int, int] | None:
    """A number written as UTF-8 writes a character, with up to 36 bits, and the bytes that it takes."""
    first = data[0]
    if first < 0x80:
        return first, 1
    length = 8 - (first ^ 0xFF).bit_length()
    if not 2 <= length <= 7 or len(data) < length:
        return None
    value = first & (0x7F >> length)
    for byte in data[1:length]:
        if byte & 0xC0 != 0x80:
            return None
        value = value << 6 | byte & 0x3F
    return value, length


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    """Cyclic redundancy check, most significant bit first, from 0."""
    table, mask = _crc_table(bits, polynomial), (1 << bits) - 1
    register = 0
    for byte in data:
        register = ((register << 8) & mask) ^ table[(register >> (bits - 8)) ^ byte]
    return register


@cache
def _crc_table(bits: int, polynomial: int) -> tuple[int, ...]:
    """The check of each single byte."""
    top, mask = 1 << (bits - 1), (1 << bits) - 1
    table = []
    for value in range(256):
        register = value << (bits - 8)
        for _ in range(8):
            register = ((register << 1) ^ polynomial if register & top else register << 1) & mask
        table.append(register)
    return tuple(table)
