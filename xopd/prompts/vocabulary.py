"""Fingerprints of vocabularies: token ids only mean the same where these agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xopd.errors import UserError, first_line

BLOCK = 1024
"""Token ids per block hash."""


@dataclass(frozen=True)
class Vocabulary:
    """What of a tokenizer must agree between student and teacher."""

    size: int
    fingerprint: str
    """SHA-256 over every (id, token) and the special tokens, lower-case hex."""
    special_tokens: tuple[tuple[str, int], ...]
    """Special tokens and their ids, by id."""
    block_hashes: tuple[int, ...]
    """An unsigned 64-bit hash for each BLOCK of ids."""


TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
TOKENIZER_KEYS = ("added_tokens_decoder", "extra_special_tokens", "additional_special_tokens", "tokenizer_class")
"""What of a tokenizer_config.json can add tokens."""


def same_tokenizer_files(one: Path, other: Path) -> bool:
    """Whether two checkpoints have the same tokenizer, file by file. Then their vocabularies agree; else they may."""
    for name in TOKENIZER_FILES:
        if _bytes_of(one / name) != _bytes_of(other / name):
            return False
    if _bytes_of(one / "tokenizer.json") is None:
        return False
    try:
        first, second = (json.loads(_bytes_of(at / "tokenizer_config.json") or b"{}") for at in (one, other))
        return all(first.get(key) == second.get(key) for key in TOKENIZER_KEYS)
    except (ValueError, AttributeError):
        return False


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def open_teacher_tokenizer(path: str) -> tuple[Any, Vocabulary]:
    """The tokenizer of the checkpoint in the folder `teacher.path`, and its vocabulary.

    Raises:
        UserError: if it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        return tokenizer, vocabulary_of(tokenizer)
    except Exception as error:  # a damaged file fails in its own library's way
        raise UserError(f"teacher.path {path}: its tokenizer cannot be loaded ({first_line(error)}).") from None


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """Fingerprint a transformers tokenizer, added tokens included."""
    by_id = {int(i): str(token) for token, i in tokenizer.get_vocab().items()}
    specials = {str(t.content): int(i) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return fingerprint_vocabulary(by_id, specials)


def fingerprint_vocabulary(by_id: Mapping[int, str], special_tokens: Mapping[str, int]) -> Vocabulary:
    """Fingerprint a vocabulary given as id to token, and special token to id."""
    size = max(by_id, default=-1) + 1
    whole = hashlib.sha256()
    blocks: list[int] = []
    for start in range(0, size, BLOCK):
        block = hashlib.sha256()
        for i in range(start, min(start + BLOCK, size)):
            block.update(f"{i}\0{by_id.get(i, '')}\1".encode())
        whole.update(block.digest())
        blocks.append(int.from_bytes(block.digest()[:8], "big"))
    ordered = tuple(sorted(special_tokens.items(), key=lambda pair: (pair[1], pair[0])))
    whole.update(repr(ordered).encode())
    return Vocabulary(size, whole.hexdigest(), ordered, tuple(blocks))


def describe_difference(student: Vocabulary, teacher: Vocabulary) -> str | None:
    """One clause that names the first difference that matters, or None where the vocabularies agree."""
    if student.fingerprint == teacher.fingerprint:
        return None
    mine, theirs = dict(student.special_tokens), dict(teacher.special_tokens)
    for text in (*mine, *theirs):
        if mine.get(text) != theirs.get(text):
            student_id, teacher_id = _id(mine.get(text)), _id(theirs.get(text))
            return f"special token {text!r} is {student_id} for the student, {teacher_id} for the teacher"
    if student.size != teacher.size:
        return f"the student has {student.size} tokens, the teacher {teacher.size}"
    return _first_block(student.block_hashes, teacher.block_hashes)


def _id(token_id: int | None) -> str:
    return "absent" if token_id is None else f"id {token_id}"


def _first_block(mine: Sequence[int], theirs: Sequence[int]) -> str:
    for index, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        if a != b:
            return f"tokens between ids {index * BLOCK} and {(index + 1) * BLOCK - 1} differ"
    return "the fingerprints differ"
