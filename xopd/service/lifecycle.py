"""Begin and end of a service process: its command line's options, signals, one-sentence failures, its address file."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from xopd.errors import UserError
from xopd.files import write_whole
from xopd.readable import use_readable_output
from xopd.telemetry.own_metrics import keep_own_metrics

ADDRESS_FILE = "XOPD_ADDRESS_FILE"
"""Environment variable: where a service writes its addresses (JSON) once it listens."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOPPED_STATUSES = frozenset(128 + signum for signum in STOP_SIGNALS)
"""Exit statuses of a service that was stopped before its work was done, as a shell would give them: 143 and 130."""


class StoppedEarlyError(Exception):
    """Raised by a service's `main` that was asked to stop, did so in order, and has work left."""


@contextlib.contextmanager
def large_imports() -> Iterator[None]:
    """Within the block, import packages such as torch and vLLM without looking for garbage among their objects.

    They have a million objects and none of them is garbage: the collector would take two fifths of the time. It does
    not look at them later either, nor at the interpreter's end, where that takes seconds.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def announce_addresses(**addresses: str) -> None:
    """Write this process's addresses where its starter asked for them.

    Such as http="127.0.0.1:4711", and scheme="https" where its HTTP endpoints speak TLS.
    """
    target = os.environ.get(ADDRESS_FILE)
    if target:
        write_whole(Path(target), json.dumps({"pid": os.getpid(), **addresses}))


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until each has ended; their results and exceptions are left with them.

    One cancellation is not always enough: redis-py can lose one that comes in the moment a reply arrives.
    """
    pending = [task for task in tasks if not task.done()]
    while pending:
        for task in pending:
            task.cancel()
        _, rest = await asyncio.wait(pending, timeout=1.0)
        pending = list(rest)


def run_service(main: Callable[[asyncio.Event], Awaitable[Any]]) -> None:
    """Run `main(stop)` until it returns; SIGTERM and SIGINT set `stop`.

    Exits 2 with one sentence on UserError, and 128 + the signal on StoppedEarlyError.
    """
    use_readable_output()
    keep_own_metrics()
    caught: list[int] = []

    async def _run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def _asked(signum: signal.Signals) -> None:
            caught.append(int(signum))
            stop.set()

        for signum in STOP_SIGNALS:
            loop.add_signal_handler(signum, _asked, signum)
        await main(stop)

    try:
        asyncio.run(_run())
    except StoppedEarlyError:
        raise SystemExit(128 + caught[0]) from None
    except UserError as error:
        sys.stderr.write(f"xopd: {error}\n")
        raise SystemExit(2) from None
    finally:
        gc.freeze()  # the process ends: its memory is not searched for garbage before


ConfigOption = Annotated[Path, typer.Option(help="Configuration file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: a.b=value.")]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Bind an address other than loopback without token and TLS.")
]


def insecurely(overrides: Sequence[str] | None, insecure: bool) -> list[str]:
    """The --set options of a service's command line, with what its --insecure stands for."""
    return [*(overrides or ()), *(["security.insecure=true"] if insecure else [])]
