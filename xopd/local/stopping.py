"""How a command that runs processes is stopped: in order at the first signal, at once at the second."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from xopd.local.supervisor import Supervisor


class Stop:
    """Whether someone asked for the end, and by which signal."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.asked = asyncio.Event()
        self.signal = 0
        """Number of the first signal, 0 for none."""

    def ask(self, signum: int) -> None:
        """Ask for the end as the signal `signum` would; only the first is kept."""
        if not self.asked.is_set():
            self.signal = signum
            self.asked.set()

    def catch_signals(self, supervisor: Supervisor, on_event: Callable[[str], None], first: str) -> None:
        """From now on a signal asks for the end; a second one kills all processes of `supervisor`.

        `on_event` is told the sentence `first` at the first signal. Needs a running event loop.
        """

        def _caught(signum: signal.Signals) -> None:
            if self.asked.is_set():
                on_event("killing what is left")
                supervisor.kill_all()
            else:
                self.ask(int(signum))
                on_event(f"stopping: {first}; once more Ctrl-C kills everything")

        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Under nohup the run shall outlive its terminal.
            if not (signum == signal.SIGHUP and signal.getsignal(signum) == signal.SIG_IGN):
                loop.add_signal_handler(signum, _caught, signum)

    async def unless_asked(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`, or cancel it when the end is asked for; not begun where it was asked for already."""
        if self.asked.is_set():
            work.close()
            return
        doing = asyncio.create_task(work)
        stopping = asyncio.create_task(self.asked.wait())
        await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not doing.done():
            doing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await doing
