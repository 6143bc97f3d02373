"""A teacher pod by itself: start-up, memory, tokens a second and padding, at several batch shapes.

    python bench/teacher.py [--checkpoint DIR] [--requests 400] [--prompt 40] [--responses 4] [--tokens 18]

Without --checkpoint a random model of about a million parameters is made. Responses vary from half to one and a half
times --tokens. Everything goes through gRPC, as in a run; "engine" is what the pod's own clock says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from xopd.scoring import TeacherClient

ROOT = Path(__file__).resolve().parents[1]


def make_checkpoint(folder: Path) -> tuple[Path, float]:
    """A random Qwen2 of the tiny world's size; returns its folder and its parameters in millions."""
    sys.path.insert(0, str(ROOT))
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tests.random_models import make_tokenizer

    tokenizer = make_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model.num_parameters() / 1e6


def start(folder: Path, checkpoint: Path, engine: str) -> tuple[subprocess.Popen[bytes], dict[str, str], float]:
    """Start a pod; returns it, its addresses, and the seconds until it was ready."""
    config, addresses = folder / f"{engine}.yaml", folder / f"{engine}.json"
    tree: dict[str, Any] = {"data": {"manifest": "none"}, "student": {"path": "none"}}
    config.write_text(yaml.safe_dump(tree | {"teacher": {"path": str(checkpoint), "engine": engine}}))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "xopd_teacher", "--config", str(config)],
        env={**os.environ, "XOPD_ADDRESS_FILE": str(addresses), "OMP_NUM_THREADS": "1"}, cwd=ROOT,
    )  # fmt: skip
    while process.poll() is None and time.monotonic() - began < 300:
        try:
            found: dict[str, str] = json.loads(addresses.read_text())
            if httpx.get(f"http://{found['http']}/readyz", trust_env=False).status_code == 200:
                return process, found, time.monotonic() - began
        except (OSError, httpx.HTTPError):
            pass
        time.sleep(0.02)
    raise SystemExit("the teacher did not start")


def metrics(addresses: dict[str, str]) -> dict[str, float]:
    """Every series of the pod."""
    text = httpx.get(f"http://{addresses['http']}/metrics", trust_env=False).text
    pairs = (line.rpartition(" ")[::2] for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def load(endpoint: str, pairs: list[Any], top_k: int) -> float:
    """Score all pairs at once; returns seconds."""
    async with TeacherClient([endpoint]) as client:
        await client.score([1], [[2]], "warm-up")
        began = time.monotonic()
        await asyncio.gather(*(client.score(p, r, f"{i}", top_k) for i, (p, r) in enumerate(pairs)))
        return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--engines", nargs="+", default=["transformers"], choices=["transformers", "vllm"])
    for name, default in (("requests", 400), ("prompt", 40), ("responses", 4), ("tokens", 18)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    table = Table("engine", "top k", "response tok/s", "engine tok/s", "padding", "requests a batch")
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        checkpoint, millions = (options.checkpoint, 0.0) if options.checkpoint else make_checkpoint(Path(name, "model"))
        if millions:
            console.print(f"random model of {millions:.2f} M parameters")
        for engine in options.engines:
            process, addresses, seconds = start(Path(name), checkpoint, engine)
            try:
                rss = psutil.Process(process.pid).memory_info().rss / 2**20
                console.print(f"{engine}: ready after {seconds:.1f} s, {rss:.0f} MiB resident")
                for top_k in (0, 8):
                    lengths = rng.integers(options.tokens // 2, 3 * options.tokens // 2 + 1, (options.requests, 64))
                    pairs = [
                        (rng.integers(0, 256, options.prompt), [rng.integers(0, 256, n) for n in row])
                        for row in lengths[:, : options.responses]
                    ]
                    before = metrics(addresses)
                    wall = asyncio.run(load(addresses["grpc"], pairs, top_k))
                    after = metrics(addresses)
                    spent = {key: after[key] - before.get(key, 0.0) for key in after}
                    tokens = spent["xopd_teacher_scored_tokens_total"]
                    padding = spent["xopd_teacher_padding_tokens_total"] / spent["xopd_teacher_forward_tokens_total"]
                    kind = '{kind="score"}'
                    table.add_row(
                        engine,
                        str(top_k),
                        f"{tokens / wall:,.0f}",
                        f"{tokens / spent[f'xopd_teacher_compute_seconds_total{kind}']:,.0f}",
                        f"{padding:.1%}",
                        f"{options.requests / spent[f'xopd_teacher_batch_requests_count{kind}']:.1f}",
                    )
            finally:
                process.terminate()
                process.wait(60)
    console.print(table)


if __name__ == "__main__":
    main()
