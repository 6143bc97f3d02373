"""A real rollout pod and what a trainer would do with it: publish versions, add groups, read answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

from tests.integration.forked import start
from tests.random_models import make_student
from xopd.families import open_family
from xopd.families.tensors import hub_state
from xopd.local.embedded_redis import EmbeddedServer
from xopd.streams import Keys, WorkStream
from xopd.streams.keys import ROLLOUT_GROUP
from xopd.streams.work import FIELD
from xopd.v1 import trajectory_pb2 as pb
from xopd.v1 import weights_pb2
from xopd.weights import TensorsInMemory, WeightAnnouncements
from xopd.weights.store import StoreSender
from xopd.wire import PROTOCOL, decode_trajectory_group

START_S = 180.0
"""Longest wait for a pod (seconds): generous, for machines that are busy with other things."""


def make_clip(folder: Path, seed: int, samples: int) -> pb.AudioRef:
    """A clip of noise, by reference."""
    path = folder / f"clip-{seed}.flac"
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32), 16000)
    return pb.AudioRef(uri=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def write_config(folder: Path, student: Path, redis_url: str, **settings: dict[str, Any]) -> Path:
    """A configuration for pods of `student`."""
    tree: dict[str, dict[str, Any]] = {
        "redis": {"url": redis_url, "lease_s": 3.0},
        "data": {"manifest": str(folder / "items.jsonl")},
        "student": {"path": str(student), "feature_cache": str(folder / "features")},
        "teacher": {"path": str(student)},
        "weights": {"uri": str(folder / "weights")},
        "rollout": {"max_model_len": 256, "kv_cache_gb": 0.0625, "heartbeat_s": 0.5, "update_timeout_s": 3.0},
    }
    for section, values in settings.items():
        tree.setdefault(section, {}).update(values)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


class StudentWorld:
    """A server, a random student on disk and in memory, and the configuration of its pods."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        """Make the student under `folder`."""
        self.folder = folder
        self.server = server
        self.student = make_student(folder / "student")
        self.family = open_family(str(self.student))
        self.policy = self.family.load_policy(torch.float32)
        self.config = write_config(folder, self.student, server.url)
        self.text_prompt = self.family.render_text("what is two plus three")
        self.speech_prompt = self.family.render_speech("")

    def trained(self) -> dict[str, torch.Tensor]:
        """The policy's trained tensors, as a trainer publishes them."""
        state = hub_state(self.family, self.policy)
        return {name: tensor.clone() for name, tensor in state.items() if not self.family.is_frozen(name)}


class PodProcess:
    """`python -m xopd_rollout`, as a user starts it."""

    def __init__(
        self,
        config: Path,
        *sets: str,
        pod_id: str = "pod-a",
        insecure: bool = False,
        module: tuple[str, ...] = ("xopd_rollout",),
    ) -> None:
        """Start it; output goes to a file beside the configuration. With `insecure` it needs no token and no TLS.

        `module` is what is run in its place, and its first arguments.
        """
        self.pod_id = pod_id
        stamp = time.monotonic_ns()
        self.log = config.parent / f"{pod_id}-{stamp}.log"
        self.address = config.parent / f"{pod_id}-{stamp}.json"
        options = [word for one in (f"rollout.pod_id={pod_id}", *sets) for word in ("--set", one)]
        options += ["--insecure"] if insecure else []
        env = {**os.environ, "XOPD_ADDRESS_FILE": str(self.address)}
        self.process = start([*module, "--config", str(config), *options], self.log, env)

    def until_ready(self) -> PodProcess:
        """Wait for /readyz."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.text()
            if self.address.exists() and self.get("/readyz")[0] == 200:
                return self
            time.sleep(0.1)
        raise AssertionError(f"{self.pod_id} is not ready:\n{self.text()}")

    def get(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Status and answer of a request."""
        url = f"http://{json.loads(self.address.read_text())['http']}{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                status, text = reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        except urllib.error.URLError:
            return 0, None
        return status, text if path == "/metrics" else json.loads(text)

    def text(self) -> str:
        """What it printed so far, the end of it."""
        return self.log.read_text(errors="replace")[-6000:]

    def end(self, timeout_s: float = 40.0) -> int:
        """SIGTERM, and its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.pod_id} did not end:\n{self.text()}") from None


class TrainerEnd:
    """The trainer's end of the streams, driven by a test."""

    def __init__(self, client: Any, store: Path, run_id: str = "run-1") -> None:
        """Talk to the pods through `client`."""
        self.client = client
        self.keys = Keys("xopd")
        self.run_id = run_id
        self.store = store
        self.sender = StoreSender(str(store), run_id, keep=3)
        self.announcements = WeightAnnouncements(client, self.keys)
        self.prompts = WorkStream(client, self.keys.prompts, ROLLOUT_GROUP, "test")
        self._made = 0

    async def publish(self, version: int, tensors: dict[str, torch.Tensor]) -> weights_pb2.WeightManifest:
        """Store and announce a version."""
        manifest = self.sender.send(version, TensorsInMemory(tensors))
        await self.announcements.publish(manifest)
        return manifest

    async def publish_file(self, version: int, data: bytes, tensors: int, **changes: Any) -> None:
        """Store `data` as a version's file, and announce it with the manifest that fits, but for `changes`."""
        path = self.store / f"{self.run_id}-v{version:08d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        told = {"uri": str(path), "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        fields = {"protocol": PROTOCOL, "run_id": self.run_id, "version": version, "tensor_count": tensors}
        manifest = weights_pb2.WeightManifest(kind=weights_pb2.WEIGHT_KIND_FULL, **{**fields, **told, **changes})
        await self.announcements.publish(manifest)

    def group(self, prompt: list[int], audio: pb.AudioRef | None = None, **fields: Any) -> pb.PromptGroup:
        """A training group of four responses at version 0, unless told otherwise."""
        self._made += 1
        version = fields.pop("version", 0)
        sampling = pb.Sampling(
            temperature=fields.pop("temperature", 1.0),
            max_new_tokens=fields.pop("max_new_tokens", 12),
            stop_token_ids=fields.pop("stop", [258]),
        )
        return pb.PromptGroup(
            protocol=PROTOCOL,
            run_id=self.run_id,
            group_id=fields.pop("group_id", f"{self.run_id}-g{self._made}"),
            item_id="item",
            modality=pb.MODALITY_SPEECH if audio is not None else pb.MODALITY_TEXT,
            purpose=pb.PURPOSE_TRAIN,
            prompt_token_ids=prompt,
            audio=audio,
            seeds=fields.pop("seeds", [1, 2, 3, 4]),
            sampling=sampling,
            min_policy_version=version,
            max_policy_version=version,
            **fields,
        )

    async def send(self, *groups: pb.PromptGroup) -> None:
        """Add groups to the prompt stream."""
        await self.prompts.ensure_group()
        await self.prompts.add([group.SerializeToString() for group in groups])

    async def answers(self, *groups: pb.PromptGroup, timeout_s: float = 60.0) -> list[pb.TrajectoryGroup]:
        """The first answer to each group, in the order given."""
        deadline = time.monotonic() + timeout_s
        found: dict[str, pb.TrajectoryGroup] = {}
        after: Any = "0-0"
        while len(found) < len(groups):
            assert time.monotonic() < deadline, (
                f"no answer to {[g.group_id for g in groups if g.group_id not in found]}"
            )
            reply: Any = await self.client.xrange(self.keys.trajectories, min=b"(" + after if after != "0-0" else "-")
            for entry_id, fields in reply:
                after = entry_id
                answer = decode_trajectory_group(fields[FIELD])
                if any(group.group_id == answer.group_id for group in groups):
                    found.setdefault(answer.group_id, answer)
            if not reply:
                await asyncio.sleep(0.02)
        return [found[group.group_id] for group in groups]

    async def ask(self, *groups: pb.PromptGroup) -> list[pb.TrajectoryGroup]:
        """Send groups and wait for their answers."""
        await self.send(*groups)
        return await self.answers(*groups)
