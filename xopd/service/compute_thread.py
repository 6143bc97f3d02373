"""One thread, beside the event loop, for everything in a process that computes with tensors.

Each thread that computes gets an allocator arena and a team of OpenMP threads of its own, and keeps what its largest
step took. In a pool of threads all of them would, one after another.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class ComputeThread:
    """Runs functions one after another, always in the same thread."""

    def __init__(self) -> None:
        """The thread starts with the first function."""
        self._executor = ThreadPoolExecutor(1, "compute")

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Await `function(*args, **kwargs)`, which sees the caller's context variables, such as its span."""
        call = partial(contextvars.copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)
