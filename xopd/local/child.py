"""One child process: in its own session, ended as a whole group, and not left behind when its starter dies."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from xopd.readable import IN_UTF8

PR_SET_PDEATHSIG = 1


def spawn(
    argv: Sequence[str],
    log: Path,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> subprocess.Popen[bytes]:
    """Start `argv` with both outputs appended to `log`, which a Python program writes in UTF-8.

    The child leads a session of its own, so a terminal's Ctrl-C reaches only its starter. On Linux it is sent
    SIGTERM when the thread that called `spawn` ends: call it from a thread that lives as long as the child should.

    Args:
        argv: program and arguments.
        log: file that takes standard output and error.
        env: the whole environment; None inherits.
        stdin: what it reads on standard input, at most 4,096 bytes, which a pipe holds; None: nothing.

    Raises:
        OSError: if the program cannot be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, _readable(stdin) as readable:
        return subprocess.Popen(  # noqa: S603 (callers give a fixed program, never a shell line)
            list(argv),
            stdin=readable,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**(os.environ if env is None else env), **IN_UTF8},
            start_new_session=True,
            preexec_fn=_end_with_parent(),
        )


def stop(process: subprocess.Popen[bytes], grace_s: float) -> int:
    """SIGTERM the child, wait up to `grace_s` (seconds), then SIGKILL what is left of its group.

    Returns:
        Its exit status; negative for a signal.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    return kill(process)


def kill(process: subprocess.Popen[bytes]) -> int:
    """SIGKILL the child and all of its group; returns its exit status."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait(timeout=10)


@contextlib.contextmanager
def _readable(text: bytes | None) -> Iterator[int]:
    """A file descriptor that gives `text` and then ends. It is on no disk and in no command line."""
    if text is None:
        yield subprocess.DEVNULL
        return
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(text)
        yield reading
    finally:
        os.close(reading)


def _end_with_parent() -> Callable[[], None] | None:
    """What runs in the child before the program: ask the kernel for SIGTERM when the parent dies."""
    if not sys.platform.startswith("linux"):
        return None
    # Looked up here, before the fork: the child of a process with threads must not import or allocate much.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def _before_exec() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return _before_exec
