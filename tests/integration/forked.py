"""Services as processes of their own that need not import torch or vLLM first: forked off a process that has.

`start` starts one; the outcome looks like `subprocess.Popen`. It is what `python -m MODULE ARGUMENTS` would be: a
process with its own standard streams, environment and arguments, that runs the module as `__main__` and ends as Python
ends. What differs is that the libraries below are in memory already. Whole runs (tests/e2e) do without this.

`python -m tests.integration.forked KIND` is the process that forks. It reads one request a line, and writes a line when
a child was forked and when one has ended.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMON = (
    "torch",
    "numpy",
    "safetensors.torch",
    "fastapi",
    "uvicorn",
    "grpc.aio",
    "redis.asyncio",
    "soundfile",
    "httpx",
)
LIBRARIES = {
    "transformers": (
        *COMMON,
        "transformers.models.auto.modeling_auto",
        "transformers.models.qwen2.modeling_qwen2",
        "transformers.models.qwen2_audio.modeling_qwen2_audio",
        "transformers.models.qwen2_audio.processing_qwen2_audio",
    ),
    "vllm": (*COMMON, "vllm.v1.engine.async_llm", "vllm.engine.arg_utils", "vllm.entrypoints.llm"),
}
"""What each kind of process imports before it forks: libraries alone, nothing of ours."""


VLLM = ("xopd_rollout", "tests.integration.faulty_pod")
"""Modules that are forked off the process that has vLLM."""
READ_AT_IMPORT = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
"""Variables that a library reads when it is imported: with one of them, a service is started afresh."""


def start(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, errors: Path | None = None
) -> Service | subprocess.Popen[bytes]:
    """Start `python -m *command` in `env`; its output is appended to `log`, standard error to `errors` if given."""
    env = dict(os.environ if env is None else env)
    if any(name in env for name in READ_AT_IMPORT):
        with log.open("ab") as out, (errors or log).open("ab") as err:
            return subprocess.Popen([sys.executable, "-m", *command], stdout=out, stderr=err, cwd=ROOT, env=env)
    request = {"command": list(command), "files": [str(log), str(errors or log)], "env": env}
    return Service(_forker("vllm" if command[0] in VLLM else "transformers"), request)


class Service:
    """A forked service; the methods are those of Popen."""

    def __init__(self, forker: _Forker, request: dict[str, Any]) -> None:
        """Have it forked."""
        self._of = forker
        self.pid = forker.fork(request)

    @property
    def returncode(self) -> int | None:
        """Exit status if it has been seen to end, negative for a signal."""
        return self._of.ended.get(self.pid)

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        with self._of.news:
            if not self._of.news.wait_for(lambda: self.pid in self._of.ended, timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            return self._of.ended[self.pid]

    def send_signal(self, signum: int) -> None:
        """Send a signal if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run(command: Sequence[str], env: Mapping[str, str], timeout_s: float = 90.0) -> subprocess.CompletedProcess[str]:
    """Run `python -m *command` to its end, as subprocess.run does."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder, "stdout"), Path(folder, "stderr")
        service = start(command, out, env, errors)
        try:
            status = service.wait(timeout_s)
        except subprocess.TimeoutExpired:
            service.kill()
            raise AssertionError(f"{command} does not end:\n{errors.read_text()}") from None
        return subprocess.CompletedProcess(list(command), status, out.read_text(), errors.read_text())


class _Forker:
    """The tests' end of a process that forks."""

    def __init__(self, kind: str) -> None:
        self.ended: dict[int, int] = {}
        self.forked: list[int] = []
        self.news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name not in READ_AT_IMPORT},
        )
        threading.Thread(target=self._read, daemon=True).start()
        atexit.register(self.process.kill)

    def fork(self, request: dict[str, Any]) -> int:
        assert self.process.stdin is not None
        with self.news:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            assert self.news.wait_for(lambda: self.forked, 120), "no process was forked"
            return self.forked.pop()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            with self.news:
                if "status" in told:
                    self.ended[told["pid"]] = told["status"]
                else:
                    self.forked.append(told["pid"])
                self.news.notify_all()


@functools.cache
def _forker(kind: str) -> _Forker:
    return _Forker(kind)


def _import(kind: str) -> None:
    if kind == "vllm":
        # As a pod does: the engine reads the environment when it is imported.
        from xopd_rollout.environment import set_environment

        from xopd.config.schema import RolloutSettings

        set_environment(RolloutSettings())
    gc.disable()
    for name in LIBRARIES[kind]:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()


def _serve(kind: str) -> dict[str, Any] | None:
    """Fork what is asked for; return in the child, with its request, or at the end of the tests, with nothing."""
    inherited = dict(os.environ)
    _import(kind)
    grown = {name: value for name, value in os.environ.items() if inherited.get(name) != value}
    died, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    tell = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(died, selectors.EVENT_READ)
        unread = b""
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if died in ready:
                os.read(died, 512)
                for pid, status in _reaped():
                    print(json.dumps({"pid": pid, "status": status}), file=tell, flush=True)
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    return None
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    request: dict[str, Any] = json.loads(line)
                    pid = os.fork()
                    if pid == 0:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        tell.close()
                        os.close(died)
                        os.close(wake)
                        request["env"] = {**grown, **request["env"]}
                        return request
                    print(json.dumps({"pid": pid}), file=tell, flush=True)


def _reaped() -> list[tuple[int, int]]:
    found = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, os.waitstatus_to_exitcode(status)))


def _become(request: dict[str, Any]) -> None:
    """Be what `python -m *command` is, with its output in the log."""
    out, errors = (os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) for name in request["files"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (errors, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(request["env"])
    module, *arguments = request["command"]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    asked = _serve(sys.argv[1])
    if asked is not None:
        _become(asked)
