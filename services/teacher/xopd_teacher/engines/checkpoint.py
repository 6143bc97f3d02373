"""What both engines read of a checkpoint before they load it: its tokenizer's vocabulary and its context length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from xopd.data.vocabulary import Vocabulary, vocabulary_of
from xopd.errors import UserError
from xopd.families.checkpoint_files import read_checkpoint_config


def read_config(path: str) -> Any:
    """The text model's configuration.

    Raises:
        UserError: if there is no such checkpoint, or it is not readable.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"teacher.path {path}: there is no such folder; give a checkpoint's folder.")
    read_checkpoint_config("teacher.path", folder)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except Exception as error:
        raise UserError(f"teacher.path {path}: its config.json cannot be read ({first_line(error)}).") from None


def read_vocabulary(path: str) -> Vocabulary:
    """The vocabulary of the checkpoint's tokenizer.

    Raises:
        UserError: if the tokenizer cannot be loaded.
    """
    try:
        vocabulary = vocabulary_of(AutoTokenizer.from_pretrained(path, local_files_only=True))
    except Exception as error:
        raise UserError(f"teacher.path {path}: its tokenizer cannot be loaded ({first_line(error)}).") from None
    if vocabulary.size <= len(vocabulary.special_tokens):
        # transformers makes up an empty tokenizer where a checkpoint has none.
        raise UserError(f"teacher.path {path}: holds no tokenizer; copy the checkpoint's tokenizer files there.")
    return vocabulary


def first_line(error: Exception) -> str:
    """An exception's first line, without its full stop, to stand inside a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
