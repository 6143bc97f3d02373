"""The file of a comparison: which methods, which seeds, what they share, and the runs that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from xopd.config import Config, load_config
from xopd.config.fields import is_text, known_fields
from xopd.config.section import Section, first_message
from xopd.config.yaml12 import FieldPath, in_one_line, read_yaml_file, write_yaml
from xopd.errors import UserError
from xopd.families.hub import Checkpoints
from xopd.report.comparison import read as records
from xopd.report.records import read_record

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Settings = dict[str, Any]
SHARED = ("run.", "data.", "student.", "sampling.", "evals.", "rollout.", "redis.", "weights.", "trainer.")
"""Settings that an entry may not have for itself: data, base checkpoint and budget are the same for all."""
RATE = "optimiser.learning_rate"


class Entry(Section):
    """One row of the tables: a method with its settings."""

    name: Name
    label: str
    """What stands in tables and figures."""
    group: Literal["methods", "ablation"] = "methods"
    """Which table it belongs to."""
    kind: str = ""
    """What sets it apart among its method's entries, such as the style of its targets."""
    note: str = ""
    rate_of: Name | None = None
    """Takes the learning rate of that entry in place of a search of its own."""
    set_: Settings = Field(default_factory=dict, alias="set")


class Search(Section):
    """How learning rates are chosen: the same candidates, seed and criterion for every entry."""

    learning_rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    seed: int
    results: str
    """JSON file of what was found, relative to this file."""
    set_: Settings = Field(default_factory=dict, alias="set")

    @model_validator(mode="after")
    def _candidates_differ(self) -> Search:
        # A run of the search is named by its rate as it is shown.
        shown = [f"{rate:g}" for rate in self.learning_rates]
        for rate in shown:
            if shown.count(rate) > 1:
                raise ValueError(f"learning_rates holds {rate} twice, to six digits")
        return self


class Quick(Section):
    """The short form: fewer entries, seeds and steps."""

    entries: list[Name]
    seeds: Annotated[list[int], Field(min_length=1)]
    set_: Settings = Field(default_factory=dict, alias="set")


class ComparisonFile(Section):
    """The whole file."""

    name: Name
    directory: str = "runs"
    run: str
    """Configuration of the run that all share, relative to this file."""
    set_: Settings = Field(default_factory=dict, alias="set")
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    jobs: Annotated[int, Field(ge=1)] = 1
    """Runs under way at the same time, each with rollout pods of its own."""
    reference: Name
    """The entry that the report speaks about first."""
    about: str = "one student on one dataset"
    """What is trained, and on what, as the report calls it."""
    limits: str = ""
    """A sentence on what the figures cannot show, for the report."""
    entries: Annotated[list[Entry], Field(min_length=1)]
    search: Search | None = None
    quick: Quick | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> ComparisonFile:
        names = [entry.name for entry in self.entries]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"entry {name} stands twice")
        mentioned = {"reference": [self.reference], "rate_of": [e.rate_of for e in self.entries if e.rate_of]}
        mentioned["quick.entries"] = list(self.quick.entries) if self.quick else []
        for where, wanted in mentioned.items():
            for name in wanted:
                if name not in names:
                    raise ValueError(f"{where} names {name}, and there is no such entry among {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed stands twice in seeds")
        return self


@dataclass(frozen=True)
class Cell:
    """One run: an entry with a seed, its configuration resolved."""

    entry: Entry
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.entry.name} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return Path(self.config.run.directory) / self.config.run.name


@dataclass(frozen=True)
class Matrix:
    """A comparison as it will be run."""

    file: ComparisonFile
    path: Path
    folder: Path
    quick: bool
    shared: Config
    """What all runs share; the services read this one."""
    cells: tuple[Cell, ...]

    @property
    def entries(self) -> list[Entry]:
        """The entries that have cells, in order."""
        return list({cell.entry.name: cell.entry for cell in self.cells}.values())

    @property
    def seeds(self) -> list[int]:
        """The seeds of the cells, in order."""
        return list(dict.fromkeys(cell.seed for cell in self.cells))

    def located(self, checkpoints: Checkpoints) -> Matrix:
        """The same with folders in the place of hub ids. Raises UserError where one cannot be looked up."""
        cells = tuple(replace(cell, config=checkpoints.located(cell.config)) for cell in self.cells)
        return replace(self, shared=checkpoints.located(self.shared), cells=cells)


def read_comparison_file(path: Path) -> ComparisonFile:
    """Read the YAML.

    Raises:
        UserError: naming the file, the line and the field of the first mistake.
    """
    document = read_yaml_file(path, "comparison", _is_text)
    if not isinstance(document.value, dict):
        raise UserError(f"{path}:1: must hold `name`, `run`, `seeds` and `entries`; it holds none of them.")
    try:
        return ComparisonFile.model_validate(document.value)
    except ValidationError as error:
        full = tuple(str(part) for part in error.errors()[0]["loc"])
        line = next((document.lines[full[:n]] for n in range(len(full), 0, -1) if full[:n] in document.lines), None)
        field = f"`{in_one_line('.'.join(full))}`: " if full else ""
        raise UserError(f"{path}{f':{line}' if line else ''}: {field}{first_message(error)}; correct it.") from None


def plan_matrix(
    file: ComparisonFile, path: Path, overrides: Sequence[str] = (), quick: bool = False, directory: str | None = None
) -> Matrix:
    """The runs of a comparison, seeds outermost: stopped early, it holds every method for some seeds.

    Args:
        file: what `path` holds.
        path: the comparison's file.
        overrides: `a.b=value` for all runs; the last word.
        quick: take the short form.
        directory: in place of the file's own.

    Raises:
        UserError: for a setting that does not exist or must be shared, or a learning rate that was not searched.
    """
    if quick and file.quick is None:
        raise UserError(f"{path}: has no `quick` section; leave --quick out, or write one.")
    short = file.quick if quick else None
    wanted = set(short.entries) if short else {entry.name for entry in file.entries}
    rates = found_rates(file, path)
    common = {**file.set_, **(short.set_ if short else {})}
    folder = Path(directory or file.directory) / (f"{file.name}-quick" if quick else file.name)
    load = _Loader(file, path, folder, overrides)
    cells = [
        load.cell(entry, seed, {**common, **_rate(entry, rates)})
        for seed in (short.seeds if short else file.seeds)
        for entry in file.entries
        if entry.name in wanted
    ]
    return Matrix(file, path, folder, quick, load.shared(common), tuple(cells))


def plan_search(
    file: ComparisonFile, path: Path, overrides: Sequence[str] = (), directory: str | None = None
) -> Matrix:
    """The runs of the search for learning rates: every entry that has one, times every candidate.

    Raises:
        UserError: as `plan_matrix`, or if the file has no `search` section.
    """
    if file.search is None:
        raise UserError(f"{path}: has no `search` section; leave --search out, or write one.")
    search, folder = file.search, Path(directory or file.directory) / f"{file.name}-search"
    common = {**file.set_, **search.set_}
    load = _Loader(file, path, folder, overrides)
    cells = [
        load.cell(entry.model_copy(update={"name": f"{entry.name}-{rate:g}"}), search.seed, {**common, RATE: rate})
        for entry in file.entries
        if entry.rate_of is None
        for rate in search.learning_rates
    ]
    return Matrix(file, path, folder, False, load.shared(common), tuple(cells))


def found_rates(file: ComparisonFile, path: Path) -> Mapping[str, float]:
    """Learning rate by entry, as the search chose it; empty for a file without a search.

    Raises:
        UserError: if there is a search, and no results of it.
    """
    found = read_search(file, path)
    return {} if found is None else {trial.entry: trial.learning_rate for trial in found.trials if trial.chosen}


def read_search(file: ComparisonFile, path: Path) -> records.Search | None:
    """What the search found; None for a file without one. Raises UserError as `found_rates`."""
    if file.search is None:
        return None
    advice = f"run `xopd compare {path} --search` first"
    return read_record(records.Search, path.parent / file.search.results, advice)


def _rate(entry: Entry, rates: Mapping[str, float]) -> Settings:
    source = entry.rate_of or entry.name
    if RATE in entry.set_ or not rates:
        return {}
    if source not in rates:
        raise UserError(f"entry {entry.name}: the search's results hold no learning rate for {source}; search again.")
    return {RATE: rates[source]}


@dataclass(frozen=True)
class _Loader:
    """Resolves the configurations of a comparison's runs."""

    file: ComparisonFile
    path: Path
    folder: Path
    overrides: Sequence[str]

    def cell(self, entry: Entry, seed: int, common: Settings) -> Cell:
        where = f"{self.path}: entry {entry.name}"
        for name in entry.set_:
            if name.startswith(SHARED):
                raise UserError(
                    f"{where}: {name} is shared by all entries, so that they have equal data and budget; set it for the"
                    " whole comparison."
                )
        place = {"run.directory": str(self.folder / "cells" / entry.name), "run.name": f"seed-{seed}"}
        return Cell(entry, seed, self._config(where, {**common, **entry.set_}, {**place, "run.seed": seed}))

    def shared(self, common: Settings) -> Config:
        place = {"run.directory": str(self.folder.parent), "run.name": self.folder.name}
        return self._config(str(self.path), common, place)

    def _config(self, where: str, settings: Settings, own: Settings) -> Config:
        known = {".".join(field) for field in known_fields()}
        for name in settings:
            if name not in known:
                raise UserError(f"{where}: `{name}` is not a setting; see docs/CONFIG.md.")
        first, last = ([f"{name}={write_yaml(value)}" for name, value in each.items()] for each in (settings, own))
        try:
            return load_config(self.path.parent / self.file.run, [*first, *self.overrides, *last])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _is_text(path: FieldPath) -> bool:
    """Whether text belongs at a path of the file; below a `set`, at a path of the configuration."""
    if "set" in path[:-1]:
        at = path.index("set") + 1
        return is_text((*path[at].split("."), *path[at + 1 :]))
    return is_text(path, ComparisonFile)
