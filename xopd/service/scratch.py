"""Where the processes of a run put their temporary files: a folder of their own, so that killed ones leave nothing.

vLLM's sockets, for example, stay when an engine is killed. The folder lies in the system's temporary folder, not in the
run's, since the path of a socket may have about a hundred characters.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from xopd.errors import UserError

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
