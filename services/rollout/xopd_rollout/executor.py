"""How the engine's own process is set up: the weight receivers known, and its life bound to the pod's."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait

from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from xopd_rollout.weight_transfer import register


class OneWorkerExecutor(UniProcExecutor):  # type: ignore[misc]
    """The model lives in the engine's process: no further one is started."""

    def _init_executor(self) -> None:
        prepare_engine_process()
        super()._init_executor()


class ManyWorkersExecutor(MultiprocExecutor):  # type: ignore[misc]
    """One process for each device that the pod spans."""

    def _init_executor(self) -> None:
        prepare_engine_process()
        super()._init_executor()


def prepare_engine_process() -> None:
    """Register the weight receivers here, leave signals to the pod, and end when the pod does, however it ends."""
    register()
    if multiprocessing.parent_process() is None:
        return
    # A forked child would else tell the pod's event loop of its own signals; Ctrl-C is the pod's to handle.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end-with-pod", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
