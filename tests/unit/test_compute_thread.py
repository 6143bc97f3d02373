"""What computes with the policy runs in one thread, and sees the caller's context."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from xopd.service.compute_thread import ComputeThread

SPAN: contextvars.ContextVar[str] = contextvars.ContextVar("span", default="none")


async def test_one_thread_that_is_not_the_loops():
    compute = ComputeThread()
    threads = await asyncio.gather(*(compute.run(threading.get_ident) for _ in range(20)))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


async def test_the_callers_context_and_arguments_arrive_and_errors_come_back():
    compute = ComputeThread()
    SPAN.set("step 3")
    assert await compute.run(lambda *args, **more: (SPAN.get(), args, more), 1, b=2) == ("step 3", (1,), {"b": 2})
    with pytest.raises(ZeroDivisionError):
        await compute.run(lambda: 1 / 0)
