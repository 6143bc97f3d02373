"""Folders that a service must be able to write, found out before anything costs time; and who has one for itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
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


@contextlib.contextmanager
def held_alone(folder: Path, lock: str, otherwise: str) -> Iterator[None]:
    """Hold `folder` against others that want the same lock; the system releases it however this process ends.

    Args:
        folder: made where it is missing.
        lock: name of the lock file in it.
        otherwise: the sentence for when somebody else holds it.

    Raises:
        UserError: if another process holds it, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / lock).open("w")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); mount or free it.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(otherwise) from None
        yield
