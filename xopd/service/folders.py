"""Folders that a service must be able to write, found out before anything costs time."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from xopd.errors import UserError


def ensure_writable(folder: str | Path, setting: str) -> None:
    """Make `folder` where it is missing, and write a file in it; the file is removed.

    Args:
        folder: a local folder; a URI of a store that is not local is left to its first use.
        setting: the setting that names it, for the sentence.

    Raises:
        UserError: if it cannot be made or written.
    """
    path = Path(str(folder).removeprefix("file://"))
    if "://" in str(path) or "::" in str(path):
        return
    probe = path / f".writable-{uuid.uuid4().hex}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{setting} {path}: cannot be written by user {os.getuid()} ({error.strerror}); mount a volume there that"
            " this user may write, or name another folder."
        ) from None
