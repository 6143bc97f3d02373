"""A teacher service as a process of its own, and the naive reference that its answers are held against."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import yaml
from transformers import AutoModelForCausalLM

from tests.integration.forked import Service, start


class TeacherProcess:
    """`python -m xopd_teacher` on free ports; `start` again takes the same ones."""

    def __init__(self, folder: Path, checkpoint: Path, **settings: Any) -> None:
        """Write its configuration into `folder`; nothing is started yet."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.settings = {"path": str(checkpoint), **settings}
        self.process: Service | subprocess.Popen[bytes] | None = None
        self.grpc = self.http = ""

    def start(self, wait: bool = True) -> TeacherProcess:
        """Start it, and wait until /readyz answers 200."""
        config, addresses = self.folder / "config.yaml", self.folder / "addresses.json"
        tree = {"data": {"manifest": "none.jsonl"}, "student": {"path": "none"}, "teacher": self.settings}
        config.write_text(yaml.safe_dump(tree))
        addresses.unlink(missing_ok=True)
        env = {**os.environ, "XOPD_ADDRESS_FILE": str(addresses)}
        self.process = start(["xopd_teacher", "--config", str(config)], self.folder / "log.txt", env)
        self._until(addresses.exists)
        found = json.loads(addresses.read_text())
        self.grpc, self.http = found["grpc"], f"http://{found['http']}"
        self.settings["port"] = int(self.grpc.rpartition(":")[2])
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait until it takes requests."""
        self._until(lambda: self.get("/readyz").status_code == 200)

    def get(self, path: str) -> httpx.Response:
        """One of its HTTP endpoints."""
        return httpx.get(f"{self.http}{path}", timeout=10, trust_env=False)

    def metric(self, series: str) -> float:
        """Value of a series as /metrics writes it, 0 where it is not there yet."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{series} "))

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit status."""
        assert self.process is not None
        return self.process.wait(60)

    def stop(self) -> None:
        """End it if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "log.txt").read_text()

    def _until(self, condition: Any) -> None:
        assert self.process is not None
        for _ in range(1200):
            assert self.process.poll() is None, f"the teacher ended:\n{self.log()[-3000:]}"
            try:
                if condition():
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the teacher did not get ready:\n{self.log()[-3000:]}")


class Naive:
    """The reference: one plain forward pass over the whole sequence of prompt and response."""

    def __init__(self, checkpoint: Path) -> None:
        """Load the model in float32."""
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    @torch.inference_mode()
    def logits(self, prompt: Any, response: Any) -> torch.Tensor:
        """Logits of all rows of the head at each response position: [T, rows]."""
        ids = torch.tensor([[*map(int, prompt), *map(int, response)]])
        return self.model(ids).logits[0].float()[len(prompt) - 1 : -1]

    def distribution(self, prompt: Any, response: Any) -> torch.Tensor:
        """Log-probabilities over the vocabulary at each response position: [T, V]."""
        return torch.log_softmax(self.logits(prompt, response), dim=-1)

    def logprobs(self, prompt: Any, response: Any) -> np.ndarray:
        """log π_T(y_t | x, y_<t): [T]."""
        rows = self.distribution(prompt, response)
        return rows.gather(-1, torch.tensor([int(i) for i in response])[:, None])[:, 0].numpy()


def ragged(rng: np.random.Generator, requests: int, most_responses: int = 6, vocabulary: int = 262) -> list[Any]:
    """(prompt, responses) pairs of many lengths, the shortest included; some share a prompt."""
    pairs: list[Any] = []
    for index in range(requests):
        shared = index % 4 == 3
        prompt = pairs[-1][0] if shared else rng.integers(0, vocabulary, rng.integers(1, 40)).tolist()
        lengths = rng.integers(1, 30, rng.integers(1, most_responses + 1))
        pairs.append((prompt, [rng.integers(0, vocabulary, length) for length in lengths]))
    return pairs
