"""One rollout pod on its own: start-up, memory, tokens/s, and the time of a weight update.

    python bench/rollout.py [--student CHECKPOINT] [--groups 32] [--samples 4] [--tokens 16]

Without `--student` a random tiny one is made. Half of the groups are spoken. The first round compiles and fills caches,
and is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import torch
from rich.console import Console

from tests.integration.rollout_pod import PodProcess, TrainerEnd, make_clip, write_config
from tests.random_models import make_student
from xopd.config.schema import RedisSettings
from xopd.families import open_family
from xopd.families.tensors import hub_state
from xopd.local.embedded_redis import EmbeddedServer
from xopd.streams import connect

console = Console()


async def measure(arguments: argparse.Namespace, folder: Path, server: EmbeddedServer) -> None:
    """Print one line a figure."""
    student = Path(arguments.student) if arguments.student else make_student(folder / "student")
    family = open_family(str(student))
    config = write_config(folder, student, server.url, rollout={"max_in_flight": arguments.groups})
    began = time.monotonic()
    pod = PodProcess(config).until_ready()
    try:
        console.print(f"start-up      {time.monotonic() - began:8.1f} s")
        state = hub_state(family, family.load_policy(torch.float32))
        trained = {name: tensor for name, tensor in state.items() if not family.is_frozen(name)}
        client = await connect(RedisSettings(url=server.url))
        trainer = TrainerEnd(client, folder / "weights")
        clips = [make_clip(folder, seed, 32000) for seed in range(arguments.groups // 2)]
        prompt, spoken = family.render_text("what is two plus three"), family.render_speech("")
        rates, updates = [], []
        for version in range(arguments.rounds + 1):
            await trainer.publish(version, trained)
            # A group of its own brings the pod to the version.
            since = time.monotonic()
            await trainer.ask(trainer.group(prompt, version=version, seeds=[1], max_new_tokens=1))
            update = time.monotonic() - since
            options = {"version": version, "max_new_tokens": arguments.tokens, "stop": []}
            seeds = range(arguments.samples)
            groups = [trainer.group(spoken, clip, seeds=seeds, **options) for clip in clips]
            groups += [trainer.group(prompt, seeds=seeds, **options) for _ in range(arguments.groups - len(clips))]
            since = time.monotonic()
            answers = await trainer.ask(*groups)
            seconds = time.monotonic() - since
            tokens = sum(len(t.token_ids) for answer in answers for t in answer.trajectories)
            if version:
                rates.append(tokens / seconds)
                updates.append(update)
        console.print(f"throughput    {statistics.median(rates):8.0f} tokens/s, through Redis")
        console.print(f"weight update {1000 * statistics.median(updates):8.0f} ms, with a group of one token")
        whole = psutil.Process(pod.process.pid)
        for process in [whole, *whole.children(recursive=True)]:
            about = process.memory_full_info()
            console.print(f"memory        {about.rss / 2**20:8.0f} MiB RSS, {about.pss / 2**20:.0f} MiB PSS")
        await client.aclose()
        since = time.monotonic()
    finally:
        pod.end()
    console.print(f"end           {time.monotonic() - since:8.1f} s")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", help="checkpoint folder; empty makes a random tiny one")
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, EmbeddedServer(Path(name) / "redis") as server:
        asyncio.run(measure(arguments, Path(name), server))


if __name__ == "__main__":
    main()
