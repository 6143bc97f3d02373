"""The folder of a run: made, refused or resumed."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from xopd.config import Config, dump_config
from xopd.errors import UserError
from xopd.service.folders import held_alone

LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """Paths inside runs/NAME."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, which every service of the run reads."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object a step, evaluation or event."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Written by the trainer when the run is finished."""
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        """What the trainer resumes from."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """A log a process."""
        return self.path / "logs"

    @property
    def processes(self) -> Path:
        """Address files and process ids."""
        return self.path / "processes"

    @property
    def scale(self) -> Path:
        """What `xopd scale` asks of the `xopd up` that runs here."""
        return self.processes / "scale.json"


def folder_of(config: Config) -> RunFolder:
    """Where the run of this configuration lies."""
    return RunFolder(Path(config.run.directory) / config.run.name)


def prepare(config: Config, config_path: str, resume: bool, overwrite: bool) -> RunFolder:
    """Make or reopen the run's folder and write the resolved configuration into it.

    Raises:
        UserError: if the folder holds a run and neither `resume` nor `overwrite` says what to do with it, or there
            is nothing to resume.
    """
    folder = folder_of(config)
    # A folder whose run never took a step, such as after a mistake in the configuration, holds nothing to lose.
    begun = folder.metrics.exists() or folder.summary.exists() or any(folder.checkpoints.glob("*"))
    if resume and overwrite:
        raise UserError("--resume and --overwrite: give one of them; the one continues the run, the other removes it.")
    if resume and folder.summary.exists():
        raise UserError(
            f"{folder.path} is finished, there is nothing to resume; see `xopd report {folder.path}`, or give another"
            " --set run.name=NAME."
        )
    if resume and not begun:
        raise UserError(f"{folder.path} holds no run to resume; start it with `xopd up {config_path}`.")
    if overwrite and begun:
        # The folder itself stays: it holds the lock.
        for path in folder.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    elif begun and not resume:
        finished = folder.summary.exists()
        state = "a finished run" if finished else "an unfinished run"
        ways = [] if finished else ["--resume to continue it"]
        ways += ["--set run.name=NAME for a new one", "--overwrite to remove it"]
        raise UserError(f"{folder.path} holds {state}; give {', '.join(ways[:-1])}, or {ways[-1]}.")
    for path in (folder.logs, folder.processes):
        path.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(dump_config(config), encoding="utf-8")
    return folder


def locked(folder: RunFolder) -> contextlib.AbstractContextManager[None]:
    """Hold the run's folder against a second `xopd up`. Raises UserError if another process holds it."""
    taken = f"{folder.path} is being run by another `xopd up`; stop that one, or give --set run.name=NAME."
    return held_alone(folder.path, LOCK, taken)
