"""Checkpoints by name: `org/name@revision` becomes a folder of the model hub's cache, fetched if it is not there.

Token (HF_TOKEN), cache (HF_HOME), offline mode (HF_HUB_OFFLINE) and endpoint (HF_ENDPOINT) are those of the library
`huggingface_hub`. It is imported only where a name has to be looked up. A revision is resolved once, to a commit;
whatever is read afterwards is of that commit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from xopd.config import Config
from xopd.config.checkpoints import HubId, read_hub_id
from xopd.errors import UserError
from xopd.families.checkpoint_files import check_weight_files
from xopd.families.download import Progress, Silent, downloading
from xopd.families.hub_errors import told, too_large

Model = Literal["student", "teacher"]
SMALL = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""Configuration, tokenizer, processor, chat templates, index of the weights."""
WEIGHTS = ("*.safetensors",)
NEVER = ("*/*", "consolidated*", "*.bin", "*.pt", "*.pth", "*.py")
"""Copies in other formats lie in folders and in `consolidated*`; pickles and programs are not even fetched."""


@dataclass(frozen=True)
class Found:
    """A checkpoint whose small files are on this machine."""

    folder: Path
    source: HubId | None = None
    """Where it comes from, with the commit as its revision; None for a folder of the user's."""
    missing: tuple[str, ...] | None = ()
    """Files of its weights that are still to be fetched; None where nobody asked."""
    missing_bytes: int = 0


def resolve_checkpoint(setting: str, value: str, progress: Progress | None = None, weights: bool = True) -> Path:
    """The folder of a checkpoint, fetched where it is named by its hub id.

    Args:
        setting: what named it, such as `teacher.path`.
        value: a folder, or `org/name` or `org/name@revision`. A folder that exists is taken as it is.
        progress: told how far a download is.
        weights: False fetches the small files only: configuration, tokenizer, processor, index.

    Raises:
        UserError: for what is neither, and for whatever keeps it from being fetched.
    """
    found = find_checkpoint(setting, value, weights)
    fetch_weights(setting, found, progress)
    return found.folder


def resolve_checkpoints(config: Config, weights: Mapping[Model, bool], progress: Progress) -> Config:
    """`config` with folders in the place of hub ids: what a service does when it starts.

    Args:
        config: as it was read.
        weights: the models that are needed, and whether with their weights.
        progress: told of downloads, and of revisions that another service may find at another commit.

    Raises:
        UserError: as `resolve_checkpoint`.
    """
    for model, whole in weights.items():
        setting, value = f"{model}.path", path_of(config, model)
        found = find_checkpoint(setting, value, whole)
        if found.source is not None and str(found.source) != value:
            progress.note(f"{setting} {value} is {found.source}; write that, so that every service has the same files")
        fetch_weights(setting, found, progress)
        config = with_path(config, model, found.folder)
    return config


def find_checkpoint(setting: str, value: str, weights: bool = True) -> Found:
    """Find a checkpoint, with its small files, and see which weights are still to be fetched if `weights` are needed.

    Raises:
        UserError: as `resolve_checkpoint`, or if a repository has no safetensors files.
    """
    folder = Path(value)
    if folder.is_dir():
        return Found(folder)
    named = read_hub_id(value)
    if folder.exists() or named is None:
        fault = "is a file" if folder.exists() else "there is no such folder"
        raise UserError(f"{setting} {value}: {fault}; give a checkpoint's folder or a hub id such as org/name.")
    from huggingface_hub import HfApi, is_offline_mode

    with told(setting, named):
        offline = is_offline_mode()
        commit = HfApi().resolve_revision(named.repo, revision=named.revision, local_files_only=offline).resolved
        source = HubId(named.repo, commit)
        folder = Path(_snapshot(source, SMALL))
        if not weights:
            return Found(folder, source, None)
        missing = _missing(source, _weight_files(folder))
    found = Found(folder, source, tuple(sorted(missing)), sum(missing.values()))
    if not found.missing and not any(folder.glob(WEIGHTS[0])):
        raise UserError(f"{setting} {value}: the repository holds no safetensors file; give another checkpoint.")
    return found


def fetch_weights(setting: str, found: Found, progress: Progress | None = None) -> None:
    """Fetch what is missing of a checkpoint's weights, and check them by their headers; resumes what was stopped.

    Raises:
        UserError: as `resolve_checkpoint`, or if the files are not whole.
    """
    source = found.source
    if source is None or not found.missing:
        return
    with told(setting, source), downloading(progress or Silent(), str(source), found.missing_bytes) as bar:
        _refuse_full_disk(setting, source, found.missing_bytes)
        _snapshot(source, found.missing, tqdm_class=bar)
    check_weight_files(setting, found.folder)


class Checkpoints:
    """The checkpoints of one command. Each name is resolved once, so that all runs of a comparison have one commit."""

    def __init__(self) -> None:
        """Nothing is looked up yet."""
        self._found: dict[str, Found] = {}

    def find(self, setting: str, value: str, weights: bool = True) -> Found:
        """As `find_checkpoint`; asked again it gives the same commit."""
        known = self._found.get(value)
        if known is None or (weights and known.missing is None):
            name = value if known is None else str(known.source)
            self._found[value] = find_checkpoint(setting, name, weights)
        return self._found[value]

    def located(self, config: Config) -> Config:
        """`config` with folders in the place of hub ids. Raises UserError as `find_checkpoint`."""
        models: tuple[Model, ...] = ("student", "teacher")
        for model in models:
            found = self.find(f"{model}.path", path_of(config, model), weights=False)
            config = with_path(config, model, found.folder)
        return config

    def fetch(self, configs: Iterable[Config], progress: Progress) -> None:
        """Fetch the weights that runs of `configs`, as they were read, load on this machine. Raises UserError."""
        for config in configs:
            for model in models_loaded(config):
                value = path_of(config, model)
                found = self.find(f"{model}.path", value)
                fetch_weights(f"{model}.path", found, progress)
                self._found[value] = replace(found, missing=(), missing_bytes=0)


def models_loaded(config: Config) -> tuple[Model, ...]:
    """The models whose weights a run on this machine loads: not a teacher that is served elsewhere."""
    return ("student",) if config.teacher.endpoints else ("student", "teacher")


def path_of(config: Config, model: Model) -> str:
    """`student.path` or `teacher.path`."""
    return config.student.path if model == "student" else config.teacher.path


def with_path(config: Config, model: Model, folder: Path) -> Config:
    """`config` with another folder of a model."""
    if path_of(config, model) == str(folder):
        return config
    section = getattr(config, model).model_copy(update={"path": str(folder)})
    return config.model_copy(update={model: section})


def _snapshot(source: HubId, patterns: Iterable[str], **options: Any) -> Any:
    """Fetch the files of a commit that match: what `snapshot_download` gives for `options`, by default the folder."""
    from huggingface_hub import snapshot_download

    from xopd.families.download import silent_bar

    options.setdefault("tqdm_class", silent_bar())
    wanted, never = list(patterns), list(NEVER)
    return snapshot_download(
        source.repo, revision=source.revision, allow_patterns=wanted, ignore_patterns=never, **options
    )


def _weight_files(folder: Path) -> tuple[str, ...]:
    """The shards that the indices in `folder` name; without an index, whatever is a safetensors file."""
    shards: set[str] = set()
    for index in folder.glob("*.safetensors.index.json"):
        try:
            shards |= {str(shard) for shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return WEIGHTS  # what is wrong with it, `check_weight_files` says
    return tuple(sorted(shards)) or WEIGHTS


def _missing(source: HubId, patterns: Iterable[str]) -> dict[str, int]:
    """Bytes of each file of a commit that matches and is not in the cache."""
    from huggingface_hub.errors import DryRunError

    try:
        files = _snapshot(source, patterns, dry_run=True)
    except DryRunError:
        # Offline, with a cache that does not tell what the commit holds: what is there is all there will be.
        return {}
    return {file.filename: int(file.file_size or 0) for file in files if file.will_download}


def _refuse_full_disk(setting: str, source: HubId, needed: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(place for place in (cache, *cache.parents) if place.exists())).free
    if free < needed:
        raise too_large(setting, source, needed, free)
