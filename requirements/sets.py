"""The requirement sets: read from roots.toml, completed to their closures, parsed and rendered as files.

A closure is walked over the metadata of the installed distributions, so what is pinned is what was tested together.
The one set that cannot be installed on a machine without a GPU (`resolver = "uv"`) is resolved from the package
index's metadata, held to the other sets' versions.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

FOLDER = Path(__file__).resolve().parent
UNION = "all-cpu"
UNION_ABOUT = "everything for a machine without a GPU: what `make setup` installs"
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^\s;+]+)$")

Pins = dict[str, str]  # canonical name -> public version


class LockError(Exception):
    """The sets cannot be made, or those on disk are wrong: one sentence for each finding."""


@dataclass(frozen=True)
class RequirementSet:
    """One table of roots.toml. `roots` includes those of the included sets; `own` does not."""

    name: str
    about: str
    roots: tuple[str, ...]
    excluded: tuple[str, ...]
    includes: tuple[str, ...] = ()
    resolver: str = "installed"
    pins: Mapping[str, str] = field(default_factory=dict)
    may_differ: Mapping[str, str] = field(default_factory=dict)
    project: str | None = None

    @property
    def path(self) -> Path:
        """The committed file."""
        return FOLDER / f"{self.name}.txt"


@dataclass(frozen=True)
class Roots:
    """The whole of roots.toml."""

    pythons: tuple[str, ...]
    sets: dict[str, RequirementSet]
    union: tuple[str, ...]

    @property
    def union_path(self) -> Path:
        """The committed file of the union."""
        return FOLDER / f"{UNION}.txt"


def read_roots(path: Path = FOLDER / "roots.toml") -> Roots:
    """Parse roots.toml, each set's roots completed by those of the sets that it includes."""
    tree = tomllib.loads(path.read_text())
    tables: dict[str, dict[str, Any]] = tree["sets"]
    sets = {}
    for name, table in tables.items():
        includes = tuple(table.get("includes", ()))
        roots = {root for table_name in (*includes, name) for root in tables[table_name]["roots"]}
        sets[name] = RequirementSet(
            name=name,
            about=table["about"],
            roots=tuple(sorted(roots)),
            excluded=tuple(pattern for pattern in tree["exclude"] if pattern not in table.get("keeps", ())),
            includes=includes,
            resolver=table.get("resolver", "installed"),
            pins=table.get("pins", {}),
            may_differ=table.get("may_differ", {}),
            project=table.get("project"),
        )
    return Roots(tuple(tree["pythons"]), sets, tuple(tree[UNION]["includes"]))


def marker_environments(pythons: Iterable[str]) -> list[dict[str, str]]:
    """The environment that dependencies' markers are evaluated in: this machine's, once for each Python version."""
    here = {key: str(value) for key, value in default_environment().items()}
    return [here | {"python_full_version": full, "python_version": ".".join(full.split(".")[:2])} for full in pythons]


def installed_closure(requirement_set: RequirementSet, environments: list[dict[str, str]]) -> Pins:
    """The set's roots and everything that they need, at the installed versions.

    Raises:
        LockError: naming each distribution that is needed and not installed.
    """
    pins: Pins = {}
    missing: dict[str, str] = {}
    queue = [(Requirement(root), "roots.toml") for root in requirement_set.roots]
    seen: set[tuple[str, str]] = set()  # (name, extra); the extra "" is the distribution itself
    while queue:
        requirement, wanted_by = queue.pop()
        name = canonicalize_name(requirement.name)
        if is_excluded(name, requirement_set):
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            missing[name] = wanted_by
            continue
        pins[name] = Version(distribution.version).public
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in distribution.requires or ():
                needed = Requirement(text)
                if needed.marker is None:
                    applies = extra == ""
                else:
                    applies = any(
                        needed.marker.evaluate(environment | {"extra": extra}) for environment in environments
                    )
                if applies:
                    queue.append((needed, name))
    if missing:
        raise LockError("; ".join(f"{name} (needed by {by}) is not installed" for name, by in sorted(missing.items())))
    return dict(sorted(pins.items()))


def _applies(needed: Requirement, extra: str, environments: list[dict[str, str]]) -> bool:
    """Whether `needed` is wanted with `extra` ("" for none) in any of the environments."""
    if needed.marker is None:
        return extra == ""
    return any(needed.marker.evaluate(environment | {"extra": extra}) for environment in environments)


def is_excluded(name: str, requirement_set: RequirementSet) -> bool:
    """Whether roots.toml leaves `name` out of this set."""
    return any(fnmatch(name, pattern) for pattern in requirement_set.excluded)


def resolved_closure(requirement_set: RequirementSet, pythons: Iterable[str], held: Pins) -> Pins:
    """The set as `uv` resolves it from the package index's metadata; `held` are versions that it must keep.

    Raises:
        LockError: with uv's own words when there is no solution.
    """
    held = {name: version for name, version in held.items() if name not in requirement_set.may_differ}
    quietly = ["--no-header", "--no-annotate", "--quiet"]
    pins: Pins = dict(requirement_set.pins)
    for minor in sorted({".".join(python.split(".")[:2]) for python in pythons}, reverse=True):
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder, "constraints.txt")
            constraints.write_text(lines(held | pins))
            wanted = Path(folder, "wanted.in")
            wanted.write_text("\n".join(requirement_set.roots))
            compile_wanted = ["uv", "pip", "compile", str(wanted), "--constraints", str(constraints)]
            result = subprocess.run(  # noqa: S603
                [sys.executable, "-m", *compile_wanted, "--python-version", minor, *quietly],
                capture_output=True,
                text=True,
                timeout=600,
            )
        if result.returncode:
            raise LockError(f"{requirement_set.name}: uv found no solution: {result.stderr.strip()}")
        pins |= {
            name: version
            for name, version in parse(result.stdout, requirement_set.name).items()
            if not is_excluded(name, requirement_set)
        }
    return dict(sorted(pins.items()))


def parse(text: str, source: str) -> Pins:
    """The pins of a requirements file, comments skipped.

    Raises:
        LockError: for a line that is not `name==version`, or a name that stands twice.
    """
    pins: Pins = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        match = PIN.match(line)
        if match is None or match["name"] in pins:
            raise LockError(f"{source}, line {number}: expected one name==version a name, found {line!r}")
        pins[match["name"]] = match["version"]
    return pins


def lines(pins: Pins) -> str:
    """One `name==version` a line, by name."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))


def render(pins: Pins, about: str, resolver: str = "installed") -> str:
    """The text of a requirements file."""
    origin = {
        "installed": "Every version was installed and tested together.",
        "uv": "Resolved from the package index's metadata: this list was never installed as a whole.",
    }[resolver]
    head = f"# {about}\n# Made by `make lock` from roots.toml: do not edit. {origin}\n"
    return f"{head}# Complete: install with `pip install --no-deps -r`.\n{lines(pins)}"


def union_of(roots: Roots, sets: Mapping[str, Pins]) -> Pins:
    """What `make setup` installs."""
    return {name: version for part in roots.union for name, version in sets[part].items()}
