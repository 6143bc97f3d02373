"""Folders: those that a service must be able to write, one process's own, and one for temporary files.

The processes of a run have a temporary folder of their own, so that killed ones leave nothing: vLLM's sockets stay when
an engine is killed. It lies in the system's temporary folder, not in the run's, since the path of a socket may have
about a hundred characters.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
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


VARIABLE = "TMPDIR"
"""The environment variable that tells programs where to put temporary files."""


def scratch_path(folder: Path) -> Path:
    """The temporary folder of whoever holds `folder`: the same each time, so what a killed one left is found again."""
    name = hashlib.sha256(f"{os.getuid()}:{folder.resolve()}".encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"xopd-{name}"


@contextlib.contextmanager
def emptied(path: Path) -> Iterator[None]:
    """Have `path` as an empty folder that only this user may enter, while the block runs; it is removed afterwards.

    Raises:
        UserError: if it cannot be had, such as where somebody else has made it.
    """
    try:
        if path.is_symlink() or path.exists():
            shutil.rmtree(path)
        path.mkdir(mode=0o700)
    except OSError as error:
        why = error.strerror or error
        raise UserError(
            f"{path}: cannot be made anew ({why}); remove it, or set {VARIABLE} to another folder."
        ) from None
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
