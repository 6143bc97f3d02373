"""A weight version on its way: memory beyond the model's own, and seconds, of sender, receiver and a real engine.

    python -m bench.weights [--layers 6] [--vocabulary 16384] [--threads 2]

Each runs in a process of its own, with a random Qwen2-Audio of float32: `send` publishes a policy, `receive` applies a
version to one in place, `engine` has vLLM load two versions one after the other. Memory is the largest anonymous memory
(what is resident and no file's) beyond what was held before; the aim is twice the largest tensor and 64 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from xopd.service.machine import describe_machine

HIDDEN = 1024
MB = 2**20
SLACK_MB = 64


class Peak:
    """The largest anonymous memory of a process since this was made, beyond what it held then."""

    def __init__(self, pid: int | str) -> None:
        """Forget the process's earlier peak."""
        self.folder = Path(f"/proc/{pid}")
        (self.folder / "clear_refs").write_text("5")
        self.before = self._read()["RssAnon"]

    @property
    def mb(self) -> float:
        """In MB. The kernel keeps the peak of all resident memory; files' part of it is what it is now."""
        now = self._read()
        return (now["VmHWM"] - now["RssFile"] - now["RssShmem"] - self.before) / 1024

    def _read(self) -> dict[str, int]:
        lines = (self.folder / "status").read_text().splitlines()
        return {k: int(v.split()[0]) for k, _, v in (line.partition(":") for line in lines) if v.endswith(" kB")}


def send(folder: Path) -> list[dict[str, float]]:
    """Publish versions 1 and 2."""
    import torch

    from xopd.families import open_family
    from xopd.families.tensors import hub_state
    from xopd.weights import TensorsInMemory
    from xopd.weights.store import StoreSender

    family = open_family(str(folder / "student"))
    state = hub_state(family, family.load_policy(torch.float32))
    tensors = TensorsInMemory({name: tensor for name, tensor in state.items() if not family.is_frozen(name)})
    sender = StoreSender(str(folder / "published"), "bench", keep=2)
    return [_measured(os.getpid(), lambda v=version: sender.send(v, tensors)) for version in (1, 2)]


def receive(folder: Path) -> list[dict[str, float]]:
    """Apply versions 1 and 2 to a policy in memory."""
    import torch

    from xopd.families import open_family
    from xopd.families.tensors import hub_state
    from xopd.weights.contents import TrainedTensors
    from xopd.weights.store import StoreReceiver

    manifests = _sent(folder)
    family = open_family(str(folder / "student"))
    state = hub_state(family, family.load_policy(torch.float32))
    receiver = StoreReceiver(str(folder / "weights"), TrainedTensors.of(family, "float32"))

    def _apply(manifest: Any) -> None:
        receiver.check(manifest)
        with torch.no_grad():
            for name, tensor in receiver.tensors(manifest):
                state[name].copy_(tensor)

    return [_measured(os.getpid(), lambda m=manifest: _apply(m)) for manifest in manifests]


def engine(folder: Path) -> list[dict[str, float]]:
    """Have an engine load versions 1 and 2."""
    from xopd_rollout.environment import set_environment

    from xopd.config import Config
    from xopd.config.schema import RolloutSettings

    set_environment(RolloutSettings())
    from xopd_rollout.engine import Engine

    from xopd.families import open_family
    from xopd.weights.contents import TrainedTensors
    from xopd.weights.transports import Receivers, receiver_settings

    student = str(folder / "student")
    tree = {
        "data": {"manifest": "none"},
        "student": {"path": student},
        "teacher": {"path": student},
        "weights": {"uri": str(folder / "weights")},
        "rollout": {"max_model_len": 256, "kv_cache_gb": 0.0625},
    }
    config = Config.model_validate(tree)
    trained = TrainedTensors.of(open_family(student), "float32")

    async def _run() -> list[dict[str, float]]:
        engine = Engine(config, Receivers(receiver_settings(config), trained))
        try:
            [process] = psutil.Process().children()
            return [await _awaited(process.pid, lambda m=m: engine.apply(m)) for m in _sent(folder)]
        finally:
            engine.close()

    return asyncio.run(_run())


FORMS = {"send": send, "receive": receive, "engine": engine}


def _measured(pid: int, action: Callable[[], object]) -> dict[str, float]:
    peak, began = Peak(pid), time.perf_counter()
    action()
    return {"seconds": time.perf_counter() - began, "mb": peak.mb}


async def _awaited(pid: int, action: Callable[[], Awaitable[object]]) -> dict[str, float]:
    peak, began = Peak(pid), time.perf_counter()
    await action()
    return {"seconds": time.perf_counter() - began, "mb": peak.mb}


def _sent(folder: Path) -> list[Any]:
    from xopd.v1 import weights_pb2

    paths = sorted(folder.glob("*.manifest"))
    return [weights_pb2.WeightManifest.FromString(path.read_bytes()) for path in paths]


def prepare(folder: Path, layers: int, vocabulary: int) -> tuple[float, float]:
    """Make the student and two versions of it; MB of a version, and of its largest tensor."""
    import torch

    from tests.random_models import make_student
    from xopd.families import open_family
    from xopd.weights import TensorsInMemory, TensorSpec
    from xopd.weights.contents import TrainedTensors
    from xopd.weights.safetensors_file import size_of
    from xopd.weights.store import StoreSender

    sizes = {"hidden_size": HIDDEN, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 16}
    make_student(folder / "student", **sizes, num_hidden_layers=layers, vocab_size=vocabulary)
    shapes = TrainedTensors.of(open_family(str(folder / "student")), "float32").shapes
    sender = StoreSender(str(folder / "weights"), "bench", keep=2)
    for version in (1, 2):
        tensors = {name: torch.randn(shape).mul_(0.02) for name, shape in shapes.items()}
        manifest = sender.send(version, TensorsInMemory(tensors))
        (folder / f"{version}.manifest").write_bytes(manifest.SerializeToString())
    each = [size_of(TensorSpec(name, shape, "float32")) / MB for name, shape in shapes.items()]
    return math.fsum(each), max(each)


def run(forms: list[str], layers: int, vocabulary: int, threads: int) -> dict[str, Any]:
    """Sizes (MB) and what each form needed, for one line each or a test."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = _apart(["prepare", folder, str(layers), str(vocabulary)], threads)
        whole, largest = prepared
        found = {form: _apart([form, folder], threads) for form in forms}
    return {"whole_mb": whole, "largest_mb": largest, "aim_mb": 2 * largest + SLACK_MB, "forms": found}


def _apart(words: list[str], threads: int) -> Any:
    command = [sys.executable, "-m", "bench.weights", "--threads", str(threads), "--one", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print a line a form and version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the lines")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        form, folder, *sizes = options.one
        made = prepare(Path(folder), *map(int, sizes)) if form == "prepare" else FORMS[form](Path(folder))
        print(json.dumps(made))
        return
    found = run(options.forms, options.layers, options.vocabulary, options.threads)
    if options.json:
        print(json.dumps(found))
        return
    print(describe_machine())
    print(f"a version has {found['whole_mb']:,.0f} MB, its largest tensor {found['largest_mb']:,.0f} MB, float32")
    for form, versions in found["forms"].items():
        for version, each in enumerate(versions, start=1):
            kept = "within" if each["mb"] <= found["aim_mb"] else "beyond"
            print(
                f"{form:<8} version {version} {each['seconds']:6.2f} s {each['mb']:6,.0f} MB beyond the model,"
                f" {kept} the aim of {found['aim_mb']:,.0f} MB"
            )


if __name__ == "__main__":
    main()
