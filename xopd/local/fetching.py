"""Fetches the checkpoints of a run before any process starts, with a progress bar where there is a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from rich import progress as bars
from rich.console import Console

from xopd.config import Config
from xopd.families.download import Lines, Progress
from xopd.families.hub import Checkpoints


def fetch_checkpoints(console: Console, checkpoints: Checkpoints, configs: Iterable[Config], plain: bool) -> None:
    """Fetch the weights that runs of `configs`, as they were read, load on this machine.

    Args:
        console: where progress is shown.
        checkpoints: what the checks found; it holds the commits.
        configs: as they were read.
        plain: show plain lines.

    Raises:
        UserError: for whatever keeps a file from being fetched, or for files that are not whole.
    """
    with _shown(console, plain) as progress:
        checkpoints.fetch(configs, progress)


@contextlib.contextmanager
def _shown(console: Console, plain: bool) -> Iterator[Progress]:
    if plain or not console.is_terminal:
        yield Lines(lambda line: console.print(line, markup=False, soft_wrap=True))
        return
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    drawn = bars.Progress(*columns, console=console, disable=True)
    try:
        yield _Bar(console, drawn)
    finally:
        drawn.stop()


class _Bar:
    """A bar a checkpoint; nothing is drawn where nothing is fetched."""

    def __init__(self, console: Console, drawn: bars.Progress) -> None:
        self._console = console
        self._drawn = drawn

    def note(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, soft_wrap=True)

    def begin(self, what: str, total: int) -> None:
        self._drawn.disable = False
        self._task = self._drawn.add_task(f"fetching {what.partition('@')[0]}", total=total)
        self._drawn.start()

    def advance(self, count: int) -> None:
        self._drawn.advance(self._task, count)

    def end(self) -> None:
        self._drawn.refresh()
