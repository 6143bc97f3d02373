"""A download under way: how far it is, and how SIGINT and SIGTERM end it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Protocol

from xopd.families.hub_errors import gigabytes

EVERY_S = 10.0
"""Seconds between two lines about a download."""
LAST_WORDS_S = 3.0
"""Time for the threads of a download that was stopped to remove their partial files."""
BYTES = "huggingface_hub.snapshot_download"
"""Name of the bar on which the library counts bytes that are written; another one counts those of the network."""


class Progress(Protocol):
    """Is told how far a download is; `advance` comes from any thread."""

    def note(self, sentence: str) -> None:
        """Something should be known."""

    def begin(self, what: str, total: int) -> None:
        """`total` bytes of `what` are to be fetched."""

    def advance(self, count: int) -> None:
        """So many bytes more are there; a repetition takes some back."""

    def end(self) -> None:
        """It is over, well or not."""


class Silent:
    """Shows nothing."""

    def note(self, sentence: str) -> None:
        """Say nothing."""

    def begin(self, what: str, total: int) -> None:
        """Say nothing."""

    def advance(self, count: int) -> None:
        """Say nothing."""

    def end(self) -> None:
        """Say nothing."""


class Lines:
    """A line at the beginning, every ten seconds, and at the end: for logs, and where there is no terminal."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` takes a line."""
        self._say = say
        self._lock = threading.Lock()
        self._what, self._total, self._done, self._said = "", 0, 0, 0.0

    def note(self, sentence: str) -> None:
        """Say it."""
        self._say(sentence)

    def begin(self, what: str, total: int) -> None:
        """Say what is fetched."""
        self._what, self._total, self._done, self._said = what, total, 0, time.monotonic()
        self._say(f"fetching {what}: {gigabytes(total)}")

    def advance(self, count: int) -> None:
        """Say how far it is, if that was some time ago."""
        with self._lock:
            self._done += count
            if time.monotonic() - self._said < EVERY_S:
                return
            self._said = time.monotonic()
        self._say(f"fetching {self._what}: {gigabytes(self._done)} of {gigabytes(self._total)}")

    def end(self) -> None:
        """Say how much there is now."""
        self._say(f"fetched {self._what}: {gigabytes(self._done)} of {gigabytes(self._total)}")


class _StoppedError(Exception):
    """Ends a thread of the library's within a file."""


@contextlib.contextmanager
def downloading(progress: Progress, what: str, total: int) -> Iterator[type]:
    """Gives the class that the library shall make its progress bars of, which tells `progress`.

    Within the block SIGINT raises KeyboardInterrupt and SIGTERM SystemExit, and neither waits for the files that are
    under way. Whole files stay in the cache.
    """
    stopped = threading.Event()

    def _advance(count: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        progress.advance(count)

    progress.begin(what, total)
    try:
        with _stopping(stopped):
            yield _bar(_advance)
    finally:
        progress.end()


def silent_bar() -> type:
    """The class of a progress bar that shows nothing."""
    return _bar(lambda count: None)


@contextlib.contextmanager
def _stopping(stopped: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    timers: list[threading.Timer] = []

    def _stop(signum: int, frame: FrameType | None) -> None:
        stopped.set()
        # The library waits for its threads, and not all of them ask for progress.
        timer = threading.Timer(LAST_WORDS_S, os._exit, (128 + signum,))
        timer.daemon = True
        timers.append(timer)
        timer.start()
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signum)

    before = {signum: signal.signal(signum, _stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _bar(advance: Callable[[int], None]) -> type:
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        """Draws nothing, and tells of the bytes that are written."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.counts = kwargs.get("name") == BYTES
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            """Count."""
            if self.counts:
                advance(int(n or 0))

    return Bar
