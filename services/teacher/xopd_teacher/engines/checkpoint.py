"""What both engines read of a checkpoint before they load it: its configuration, and which ids are tokens.

Two kinds of ids are no tokens. *Padding*: an output head often has more rows than the tokenizer has tokens (Qwen3:
151,936 for 151,669). They lie above the vocabulary, and nobody knows them: no probability is given to them. *Holes*:
ids below the largest one that no token has. Student and teacher both count them, so they are scored like any other
(their rows were never trained, and hold next to no mass), but they are never generated: they would be no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from xopd.errors import UserError, first_line
from xopd.families.checkpoint_files import read_checkpoint_config
from xopd.prompts.vocabulary import Vocabulary, open_teacher_tokenizer


@dataclass(frozen=True)
class Tokens:
    """The ids of a tokenizer: they lie below `vocabulary.size`. holes: those that no token has, ascending."""

    vocabulary: Vocabulary
    holes: tuple[int, ...]


def read_config(path: str) -> Any:
    """The text model's configuration.

    Raises:
        UserError: if there is no such checkpoint, or it is not readable.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(
            f"teacher.path {path}: there is no such folder; give a checkpoint's folder or a hub id such as org/name."
        )
    read_checkpoint_config("teacher.path", folder)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except Exception as error:
        raise UserError(f"teacher.path {path}: its config.json cannot be read ({first_line(error)}).") from None


def read_tokens(path: str) -> Tokens:
    """The vocabulary of the checkpoint's tokenizer.

    Raises:
        UserError: if the tokenizer cannot be loaded.
    """
    tokenizer, vocabulary = open_teacher_tokenizer(path)
    if vocabulary.size <= len(vocabulary.special_tokens):
        # transformers makes up an empty tokenizer where a checkpoint has none.
        raise UserError(f"teacher.path {path}: holds no tokenizer; copy the checkpoint's tokenizer files there.")
    holes = set(range(vocabulary.size)) - set(tokenizer.get_vocab().values())
    return Tokens(vocabulary, tuple(sorted(holes)))


def check_head(path: str, vocabulary: Vocabulary, rows: int) -> None:
    """Hold the vocabulary's size against the `rows` of the model's output head, which may have more.

    Raises:
        UserError: if it has fewer.
    """
    if vocabulary.size > rows:
        raise UserError(
            f"teacher.path {path}: its tokenizer has {vocabulary.size} tokens, its model {rows};"
            " give a checkpoint whose two parts belong together."
        )
