"""Where a step's time goes, what the transport costs, and trajectories/s beside TRL's on-policy distillation.

    python bench/loop.py [--steps 30] [--no-peer] [--out DIR]

One run of the whole system (`xopd up`) on the tiny world, text only, then TRL's trainer on the same prompts, models,
N, batch and number of steps, one after the other on the same machine. Both start from the language model of the tiny
student. The first `--warmup` steps of each are left out: they compile and fill caches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

from xopd.config import Config, load_config
from xopd.data import load_items

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "examples/tiny/demo.yaml"
PREFIX = "language_model."


def run_ours(out: Path, steps: int, lambda_: float, name: str) -> tuple[Config, list[dict[str, Any]]]:
    """Run `xopd up`; returns its configuration and step records."""
    overrides = [
        f"run.name={name}",
        f"run.directory={out / 'runs'}",
        f"run.steps={steps}",
        f"objective.lambda={lambda_}",
        "evals.every=0",
        "data.eval_split=dev",
    ]
    options = [part for override in overrides for part in ("--set", override)]
    subprocess.run(
        [sys.executable, "-m", "xopd", "up", str(DEMO), "--overwrite", "--plain", *options], check=True, cwd=ROOT
    )
    config = load_config(DEMO, overrides)
    lines = (out / "runs" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return config, [record for line in lines if (record := json.loads(line))["kind"] == "step"]


def text_student(config: Config, folder: Path) -> Path:
    """The student's language model alone, as a checkpoint that TRL can load."""
    tensors = load_file(Path(config.student.path) / "model.safetensors")
    mine = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    text = AutoConfig.from_pretrained(config.teacher.path, local_files_only=True)
    text.save_pretrained(folder)
    save_file(mine, folder / "model.safetensors", metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(config.teacher.path, local_files_only=True).save_pretrained(folder)
    return folder


def run_peer(config: Config, out: Path, steps: int) -> dict[str, Any]:
    """Run TRL on the prompts that our run trained on, in the same order."""
    sys.path.insert(0, str(ROOT / "services/trainer"))
    from xopd_trainer.dispatch.data_order import DataOrder

    items = [i for i in load_items(config.data.manifest) if i.split == config.data.train_split and i.kind == "task"]
    order = DataOrder(items, config.trainer.batch_prompts, config.run.seed)
    texts = [item.text for step in range(1, steps + 1) for item in order.items_of(step)]
    (out / "prompts.json").write_text(json.dumps(texts), encoding="utf-8")
    student = out / "student"
    student.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "bench/peer_trl.py")),
            *("--student", str(text_student(config, student)), "--teacher", config.teacher.path),
            *("--prompts", str(out / "prompts.json"), "--steps", str(steps)),
            *("--batch", str(config.trainer.batch_prompts), "--samples", str(config.objective.samples)),
            *("--max-new-tokens", str(config.sampling.max_new_tokens)),
            *("--learning-rate", str(config.optimiser.learning_rate), "--out", str(out / "trl")),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def stage_table(steps: list[dict[str, Any]]) -> Table:
    """Seconds of a step by stage (median), and their shares."""
    table = Table("stage", "seconds a step", "share", title="Where a step's time goes (medians)")
    total = statistics.median(r["seconds"]["total"] for r in steps)
    for stage in ("rollout", "score", "learn", "sync", "wait"):
        seconds = statistics.median(r["seconds"][stage] for r in steps)
        table.add_row(stage, f"{seconds:.3f}", f"{seconds / total:.1%}")
    table.add_row("total", f"{total:.3f}", "100.0%")
    for carrier in ("redis", "grpc"):
        seconds = statistics.median(r["transport"][carrier] for r in steps)
        table.add_row(f"of which {carrier}", f"{seconds:.3f}", f"{seconds / total:.1%}")
    return table


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="leave TRL out")
    parser.add_argument("--out", type=Path, help="folder for both runs; a temporary one by default")
    args = parser.parse_args()
    out = (args.out or Path(tempfile.mkdtemp(prefix="xopd-bench-"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    console = Console()

    _, both = run_ours(out, args.steps, 0.5, "both-modalities")
    console.print(stage_table(both[args.warmup :]))

    if args.no_peer:
        return
    config, text = run_ours(out, args.steps, 0.0, "text-only")
    peer = run_peer(config, out, args.steps)
    per_step = config.trainer.batch_prompts * config.objective.samples
    ours = per_step / statistics.median(r["seconds"]["total"] for r in text[args.warmup :])
    theirs = peer["trajectories_per_step"] / statistics.median(peer["step_seconds"][args.warmup :])
    table = Table("trainer", "trajectories/s", title=f"Text only, {per_step} trajectories a step, {args.steps} steps")
    table.add_row("X-OPD", f"{ours:.1f}")
    table.add_row("TRL DistillationTrainer", f"{theirs:.1f}")
    table.add_row("ratio", f"{ours / theirs:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
