"""Text files: small ones that others read while they change, and those that people write, in UTF-8 alone."""

from __future__ import annotations

import codecs
import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write `text` (UTF-8) so that a reader sees the old file or the new one, never half."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


MARK = 4
"""Bytes at a file's beginning that tell its encoding."""


class EncodingError(UnicodeError):
    """Text that is not UTF-8; the message is a clause that says what to do."""


def read_text(path: Path) -> str:
    """The text of a file, without its byte order mark; CRLF and CR end a line like LF.

    Raises:
        OSError: if it cannot be read.
        EncodingError: if it is not UTF-8.
    """
    data = path.read_bytes()
    refuse_other_encodings(data[:MARK])
    return decoded(data).replace("\r\n", "\n").replace("\r", "\n")


def decoded(data: bytes) -> str:
    """The text of a file or of one line; joined files have a byte order mark inside. Raises EncodingError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EncodingError(f"it is not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8") from None


def refuse_other_encodings(head: bytes) -> None:
    """Tell UTF-16 and UTF-32 by the first MARK bytes of a file. Raises EncodingError."""
    zeros = [byte == 0 for byte in head]
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)) or sum(zeros) == 3:
        raise EncodingError("it is UTF-32; save it as UTF-8")
    # Without a mark, every second byte of Latin text is 0.
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or any(zeros):
        raise EncodingError("it is UTF-16; save it as UTF-8")
