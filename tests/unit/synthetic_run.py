"""A run folder as a trainer would leave it, with plausible figures: for tests of what reads runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

START = 1_780_000_000.0


def score(accuracy: float, n: int = 400) -> dict[str, Any]:
    """An accuracy with a plausible interval."""
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / n)
    return {"accuracy": accuracy, "n": n, "ci95": [max(0.0, accuracy - half), min(1.0, accuracy + half)]}


def modality(rng: np.random.Generator, kl: float, tokens: int) -> dict[str, Any]:
    """One step's figures of one modality."""
    kl *= float(rng.uniform(0.85, 1.15))
    return {
        "advantage": {"mean": -kl, "std": 2.2 * kl, "p5": -5.2 * kl, "p50": -0.02, "p95": 1.1 * kl},
        "kl": kl,
        "ratio": {"mean": 1.0, "std": 1e-4, "max": 1.0004, "clipped_share": 0.0},
        "entropy": 0.25 + 0.3 * kl,
        "length": float(rng.normal(14, 0.7)),
        "truncated": float(max(0.0, rng.normal(0.02, 0.01))),
        "tokens": tokens,
    }


def step_record(rng: np.random.Generator, step: int, steps: int) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    left = math.exp(-2.2 * step / steps)
    speech, text = modality(rng, 0.55 + 0.75 * left, 900), modality(rng, 0.04 + 0.3 * left, 880)
    seconds = {stage: base * float(rng.uniform(0.9, 1.2)) for stage, base in STAGE_SECONDS.items()}
    if step == 1:
        seconds["rollout"] = 9.0
    return {
        "kind": "step",
        "step": step,
        "time": START + 60 + 0.8 * step,
        "wall_s": 60 + 0.8 * step,
        "loss": 0.5 * (speech["kl"] + text["kl"]),
        "loss_in": text["kl"],
        "loss_cross": speech["kl"],
        "learning_rate": 3e-4 * (1 - step / steps),
        "grad_norm": float(rng.lognormal(-0.2, 0.3)),
        "policy_version": step,
        "policy_lag_max": 0,
        "text": text,
        "speech": speech,
        "seconds": {**seconds, "total": sum(seconds.values())},
        "tokens_per_s": {
            name: rate * float(rng.uniform(0.9, 1.1))
            for name, rate in (("rollout", 4700.0), ("teacher", 12_300.0), ("trainer", 6_100.0))
        },
    }


STAGE_SECONDS = {"rollout": 0.31, "score": 0.07, "learn": 0.26, "sync": 0.03, "wait": 0.01}


def write_run(folder: Path, steps: int = 250, finished: bool = True) -> Path:
    """Write metrics.jsonl, config.yaml and, for a finished run, summary.json under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    base = {"speech": 0.3525, "text": 0.872, "retention": 0.868}
    final = {"speech": 0.782, "text": 0.9525, "retention": 0.985}
    records: list[dict[str, Any]] = [
        {"kind": "eval", "step": 0, "time": START, "split": "test", "scores": {k: score(v) for k, v in base.items()}}
    ]
    for step in range(1, steps + 1):
        records.append(step_record(rng, step, steps))
        if step % 50 == 0 or step == steps:
            share = 1 - math.exp(-3 * step / steps)
            scores = {k: score(base[k] + (final[k] - base[k]) * share, 200) for k in base}
            records.append({"kind": "eval", "step": step, "time": START, "split": "dev", "scores": scores})
        if step == steps // 2:
            detail = "from the checkpoint of step 125"
            records.append({"kind": "event", "step": step, "time": START, "event": "resumed", "detail": detail})
    if finished:
        scores = {k: score(v) for k, v in final.items()}
        records.append({"kind": "eval", "step": steps, "time": START, "split": "test", "scores": scores})
        (folder / "summary.json").write_text(json.dumps(summary(base, final, steps), indent=1))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"kind": "st')
    (folder / "config.yaml").write_text("run:\n  name: tiny\n  steps: 250\nobjective:\n  lambda: 0.5\n  note: a < b\n")
    return folder


def summary(base: dict[str, float], final: dict[str, float], steps: int) -> dict[str, Any]:
    """What summary.json holds."""
    top = 0.97

    def drop(scores: dict[str, float]) -> dict[str, float]:
        return {m: 100 * (top - scores[m]) / top for m in ("speech", "text")}

    count = steps * 16 * 2 * 4
    return {
        "run_name": "tiny",
        "method": "xopd",
        "lambda": 0.5,
        "seed": 0,
        "steps": steps,
        "wall_s": 312.4,
        "teacher": {"text": score(top)},
        "base": {k: score(v) for k, v in base.items()},
        "final": {k: score(v) for k, v in final.items()},
        "drop": {"base": drop(base), "final": drop(final)},
        "gap_closed": (final["speech"] - base["speech"]) / (top - base["speech"]),
        "paired": {
            k: {
                "mean_difference": final[k] - base[k],
                "n": 400,
                "ci95": [final[k] - base[k] - 0.04, final[k] - base[k] + 0.04],
            }
            for k in base
        },
        "bounds": {"information_ceiling": {"accuracy": 0.951, "n": 400}},
        "trajectories": {
            "dispatched": count,
            "trained": count,
            "given_up": 0,
            "duplicates_dropped": 3,
            "stale_dropped": 8,
            "redispatched": 2,
            "lost": 0,
        },
        "policy_lag": {"max": 0},
        "engine": {"rollout": "vllm 0.32.0", "teacher": "transformers 5.19.0"},
        "throughput": {
            "rollout_tokens_per_s": 4712.0,
            "teacher_tokens_per_s": 12_310.0,
            "trainer_tokens_per_s": 6090.0,
        },
        "seconds": {stage: seconds * steps for stage, seconds in STAGE_SECONDS.items()},
        "finished_at": START + 312,
        "machine": {"cpus": 2, "memory_gb": 24.0, "platform": "Linux-6.1-x86_64"},
    }
