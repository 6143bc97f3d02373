"""How a checkpoint is named: a folder, or a model hub's `org/name` or `org/name@revision`; nothing is looked up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPO = re.compile(r"(?=.{3,96}$)[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*(?<![.-])", re.ASCII)
"""A repository's name, without what only looks like one: see `read_hub_id`."""
REVISION = re.compile(r"[^\s@]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
CACHED = re.compile(r"models--(?P<org>.+?)--(?P<name>.+)")
"""A repository's folder in the hub's cache; its snapshots lie in `snapshots/COMMIT`."""


@dataclass(frozen=True)
class HubId:
    """A repository of a model hub."""

    repo: str
    """`org/name`."""
    revision: str | None = None
    """Branch, tag or commit; None for the repository's main branch."""

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which always means the same files."""
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        """As a configuration has it."""
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def read_hub_id(value: str) -> HubId | None:
    """The repository that `org/name` or `org/name@revision` names; None for what cannot be one."""
    repo, at, revision = value.partition("@")
    organisation, _, _ = repo.partition("/")
    possible = REPO.fullmatch(repo) and not organisation.endswith((".", "-"))
    if not possible or "--" in repo or ".." in repo or repo.endswith(".git"):
        return None
    if not at:
        return HubId(repo)
    return HubId(repo, revision) if REVISION.fullmatch(revision) else None


def checkpoint_name(path: str, digits: int = 40) -> str:
    """What to call the checkpoint in the folder `path`: `org/name@COMMIT` in the hub's cache, else the folder's name.

    Args:
        path: the folder.
        digits: hexadecimal digits of the commit; all 40 give a name that can be written into a configuration.
    """
    folder = Path(path)
    cached = CACHED.fullmatch(folder.parent.parent.name)
    if cached is None or folder.parent.name != "snapshots" or not COMMIT.fullmatch(folder.name):
        return folder.name
    return f"{cached['org']}/{cached['name']}@{folder.name[:digits]}"
