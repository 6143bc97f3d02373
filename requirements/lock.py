"""Write or check the pinned, complete requirement sets (`make lock`, part of `make lint`).

roots.toml names the direct dependencies of each set; sets.py completes them. `--check` compares the committed files
with one another, with the packages' pyproject.toml, and with what is installed here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tomllib
from collections.abc import Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sets import (
    FOLDER,
    UNION_ABOUT,
    LockError,
    Pins,
    RequirementSet,
    Roots,
    installed_closure,
    is_excluded,
    marker_environments,
    parse,
    read_roots,
    render,
    resolved_closure,
    union_of,
)


def is_installed(requirement_set: RequirementSet) -> bool:
    """Whether every root of the set is installed here, so that its closure can be walked."""
    try:
        for root in requirement_set.roots:
            importlib.metadata.distribution(Requirement(root).name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def write(roots: Roots) -> list[str]:
    """Write every set that can be made here; returns a sentence for each that cannot."""
    environments = marker_environments(roots.pythons)
    made: dict[str, Pins] = {}
    left_out = []
    for requirement_set in sorted(roots.sets.values(), key=lambda each: each.resolver):  # "uv" last: it needs the rest
        if requirement_set.resolver == "uv":
            made[requirement_set.name] = resolved_closure(requirement_set, roots.pythons, union_of(roots, made))
        elif is_installed(requirement_set):
            made[requirement_set.name] = installed_closure(requirement_set, environments)
        else:
            left_out.append(f"{requirement_set.path.name} is left as it was: its roots are not installed here")
            continue
        text = render(made[requirement_set.name], requirement_set.about, requirement_set.resolver)
        requirement_set.path.write_text(text)
    roots.union_path.write_text(render(union_of(roots, made), UNION_ABOUT))
    return left_out


def check_files(roots: Roots) -> list[str]:
    """What is wrong with the committed files by themselves, whatever is installed here."""
    problems = []
    sets: dict[str, Pins] = {}
    for requirement_set in roots.sets.values():
        if not requirement_set.path.exists():
            return [f"{requirement_set.path.name} is missing: run make lock"]
        sets[requirement_set.name] = parse(requirement_set.path.read_text(), requirement_set.path.name)
    for name, pins in sets.items():
        requirement_set = roots.sets[name]
        where = requirement_set.path.name
        text = render(pins, requirement_set.about, requirement_set.resolver)
        if requirement_set.path.read_text() != text:
            problems.append(f"{where} is not as `make lock` writes it")
        names: set[str] = {canonicalize_name(Requirement(root).name) for root in requirement_set.roots}
        names |= {part for include in requirement_set.includes for part in sets[include]}
        problems += [f"{where} lacks {each}" for each in sorted(names - pins.keys())]
        problems += [f"{where} holds the excluded {each}" for each in pins if is_excluded(each, requirement_set)]
        problems += _undeclared(requirement_set, pins)
    problems += _disagreements(roots, sets)
    if roots.union_path.read_text() != render(union_of(roots, sets), UNION_ABOUT):
        problems.append(f"{roots.union_path.name} is not the union of {', '.join(roots.union)}")
    return problems


def _disagreements(roots: Roots, sets: Mapping[str, Pins]) -> list[str]:
    """Names pinned to two versions in two sets, those that roots.toml allows left out."""
    first: dict[str, tuple[str, str]] = {}
    problems = []
    for set_name, pins in sets.items():
        for name, version in pins.items():
            if name in roots.sets[set_name].may_differ:
                continue
            version_before, set_before = first.setdefault(name, (version, set_name))
            if version != version_before:
                problems.append(f"{name} is {version_before} in {set_before}.txt and {version} in {set_name}.txt")
    return problems


def _undeclared(requirement_set: RequirementSet, pins: Pins) -> list[str]:
    """Dependencies of the package's own pyproject.toml that its set does not hold."""
    if requirement_set.project is None:
        return []
    file = FOLDER.parent / requirement_set.project
    if not file.exists():
        return [f"{requirement_set.project} is missing"]
    project = tomllib.loads(file.read_text())["project"]
    declared = {canonicalize_name(Requirement(each).name) for each in project.get("dependencies", ())}
    return [
        f"{requirement_set.project} declares {name}, which {requirement_set.path.name} lacks"
        for name in sorted(declared - pins.keys() - {"xopd"})
    ]


def check_closures(roots: Roots) -> tuple[list[str], list[str]]:
    """(what is wrong, what could not be checked) of the files against the distributions installed here."""
    environments = marker_environments(roots.pythons)
    problems, unchecked = [], []
    for requirement_set in roots.sets.values():
        where = requirement_set.path.name
        if requirement_set.resolver != "installed" or not is_installed(requirement_set):
            unchecked.append(f"{where}: checked as a file only, since its packages are not installed here")
            continue
        pins = parse(requirement_set.path.read_text(), where)
        closure = installed_closure(requirement_set, environments)
        for name in sorted(pins.keys() | closure.keys()):
            if pins.get(name) != closure.get(name):
                found = f"{closure.get(name, 'not needed')} here, {pins.get(name, 'absent')} in the file"
                problems.append(f"{where}: {name} is {found}")
    return problems, unchecked


def main() -> int:
    """Exit status 0 when the files are (now) current, 1 with one line a finding when not."""
    parser = argparse.ArgumentParser(description="Write the pinned requirement sets, or check them.")
    parser.add_argument("--check", action="store_true", help="change nothing; say what is not current")
    check_only = parser.parse_args().check
    roots = read_roots()
    try:
        notes = [] if check_only else write(roots)
        problems = check_files(roots)
        if not problems:
            problems, unchecked = check_closures(roots)
            notes += unchecked if check_only else []
    except LockError as error:
        problems, notes = [str(error)], []
    sys.stdout.writelines(f"{note}\n" for note in notes)
    sys.stderr.writelines(f"{problem}\n" for problem in dict.fromkeys(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
