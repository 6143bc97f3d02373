"""A comparison's folder as `xopd compare` leaves it, with made-up figures: for tests of what reads comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.synthetic_run import score

Scores = dict[str, float]
N = {"speech": 300, "text": 300, "retention": 150}
TEACHER, LARGER_TEACHER = 0.99, 0.995
BASE: Scores = {"speech": 0.36, "text": 0.94, "retention": 0.96}
FINAL: dict[str, Scores] = {
    "sft-foreign": {"speech": 0.29, "text": 0.71, "retention": 0.68},
    "sft": {"speech": 0.56, "text": 0.93, "retention": 0.86},
    "offline-kd": {"speech": 0.61, "text": 0.95, "retention": 0.88},
    "gkd": {"speech": 0.71, "text": 0.965, "retention": 0.93},
    "xopd": {"speech": 0.74, "text": 0.97, "retention": 0.955},
    "text-only": {"speech": 0.43, "text": 0.98, "retention": 0.95},
    "speech-only": {"speech": 0.735, "text": 0.91, "retention": 0.94},
    "larger-teacher": {"speech": 0.66, "text": 0.955, "retention": 0.93},
}
ENTRIES: list[dict[str, Any]] = [
    {"name": "sft-foreign", "label": "SFT, foreign style", "method": "sft", "kind": "terse answers, partly wrong"},
    {"name": "sft", "label": "SFT, own style", "method": "sft", "kind": "the teacher's style, all right"},
    {"name": "offline-kd", "label": "Offline KD", "method": "offline_kd", "kind": "the teacher's greedy responses"},
    {"name": "gkd", "label": "GKD", "method": "gkd", "kind": "forward KL on the student's own responses"},
    {"name": "xopd", "label": "X-OPD (λ = 0.5)", "settings": {"objective.lambda": 0.5}},
    {"name": "text-only", "label": "text-only OPD (λ = 0)", "group": "ablation", "settings": {"objective.lambda": 0.0}},
    {
        "name": "speech-only",
        "label": "speech-only OPD (λ = 1)",
        "group": "ablation",
        "settings": {"objective.lambda": 1.0},
    },
    {
        "name": "larger-teacher",
        "label": "X-OPD, larger teacher",
        "group": "ablation",
        "kind": "twice the size, another style of reasoning",
        "settings": {"objective.lambda": 0.5, "teacher": "teacher_large"},
    },
]
RATES = {"sft-foreign": 5e-5, "sft": 1e-4, "offline-kd": 1e-4, "gkd": 5e-5}


def write_comparison(
    folder: Path,
    seeds: Sequence[int] = (0, 1, 2),
    names: Sequence[str] | None = None,
    final: Mapping[str, Scores] | None = None,
    quick: bool = False,
    steps: int = 100,
    spread: float = 0.015,
    skip: Sequence[tuple[str, int]] = (),
    unfinished: Sequence[tuple[str, int]] = (),
) -> Path:
    """Write a comparison.

    Args:
        folder: where.
        seeds: of every entry.
        names: the entries; all without it.
        final: shares of right answers by entry, in place of FINAL's.
        quick: what the manifest says.
        steps: of every run.
        spread: standard deviation of the scores over seeds.
        skip: cells that have no folder.
        unfinished: cells without a final evaluation.
    """
    entries = [_entry(e) for e in ENTRIES if names is None or e["name"] in names]
    folder.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        name = entry["name"]
        for seed in seeds:
            if (name, seed) not in skip:
                cell = folder / "cells" / name / f"seed-{seed}"
                reached = {**FINAL, **(final or {})}[name]
                write_cell(cell, name, seed, reached, steps, spread, (name, seed) not in unfinished)
    manifest = {
        "name": "tiny-compare",
        "quick": quick,
        "steps": steps,
        "batch_prompts": 16,
        "seeds": list(seeds),
        "reference": "xopd",
        "about": "a model of a few million parameters",
        "limits": "It cannot show how large the effect is elsewhere.",
        "entries": entries,
        "search": {"about": "Four candidates each, one run each with seed 100, on the dev split.", "trials": _trials()},
        "machine": {"cpus": 2, "memory_gb": 24.0, "platform": "Linux-6.1-x86_64"},
        "wall_s": 5231.0,
        "command": "xopd compare examples/tiny/compare.yaml",
    }
    (folder / "comparison.json").write_text(json.dumps(manifest, indent=1))
    return folder


def write_cell(
    folder: Path, name: str, seed: int, reached: Scores, steps: int, spread: float = 0.0, finished: bool = True
) -> None:
    """Write one run folder with its evaluations, dev scores and probes."""
    rng = np.random.default_rng([seed, *name.encode()])
    (folder / "evals").mkdir(parents=True)
    reached = {part: min(0.995, max(0.0, value + spread * float(rng.normal()))) for part, value in reached.items()}
    teacher = LARGER_TEACHER if name == "larger-teacher" else TEACHER
    write_verdicts(folder, "teacher", {"text": teacher})
    write_verdicts(folder, "base", BASE)
    if finished:
        write_verdicts(folder, "final", reached, seed + 1)
        summary = {"run_name": name, "steps": steps, "bounds": {"information_ceiling": {"accuracy": 0.983, "n": 300}}}
        (folder / "summary.json").write_text(json.dumps(summary))
    records = []
    for step in range(0, steps + 1, max(1, steps // 4)):
        share = 1 - math.exp(-3 * step / steps)
        scores = {p: score(BASE[p] + (reached[p] - BASE[p]) * share, 100) for p in BASE}
        records.append({"kind": "eval", "step": step, "time": 0.0, "split": "dev", "scores": scores})
        supervised = name.startswith(("sft", "offline"))
        speech = _signals(rng, 1.3 - 0.8 * share * (0.5 if supervised else 1.0))
        speech["modality_gap"] = 0.9 - 0.6 * share * (0.4 if supervised else 1.0) * float(rng.uniform(0.9, 1.1))
        text = _signals(rng, 0.3 - (0.1 if supervised else 0.25) * share)
        records.append({"kind": "probe", "step": step, "time": 0.0, "speech": speech, "text": text})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def write_verdicts(folder: Path, label: str, shares: Scores, seed: int = 0) -> None:
    """Write evals/LABEL.json with exactly the given shares of right answers (as near as the number of items allows)."""
    parts = {}
    for part, share in shares.items():
        n = N[part]
        # One order of difficulty for all, shuffled a little by the seed: better models answer the same items and more.
        order = np.argsort(np.arange(n) + np.random.default_rng(seed).normal(0, 0.1 * n, n))
        right = set(order[: round(share * n)].tolist())
        kind = "retention" if part == "retention" else "task"
        parts[part] = [{"item_id": f"{kind}-{i}", "response": "answer 7", "correct": i in right} for i in range(n)]
    (folder / "evals").mkdir(parents=True, exist_ok=True)
    (folder / "evals" / f"{label}.json").write_text(json.dumps(parts))


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    method = entry.get("method", "xopd")
    settings = {
        "objective.method": method,
        "objective.lambda": 0.5,
        "optimiser.learning_rate": RATES.get(entry["name"], 5e-5),
        "teacher": "teacher",
        "trainer.batch_prompts": 16,
        **entry.get("settings", {}),
    }
    return {"group": "methods", "kind": "", "note": "", **entry, "method": method, "settings": settings}


def _trials() -> list[dict[str, Any]]:
    trials = []
    for name in ("sft-foreign", "sft", "offline-kd", "gkd", "xopd"):
        for rate in (2.5e-5, 5e-5, 1e-4, 2e-4):
            far = abs(math.log2(rate / RATES.get(name, 5e-5)))
            dev = {part: max(0.0, value - 0.04 * far) for part, value in FINAL[name].items()}
            trials.append({"entry": name, "learning_rate": rate, "dev": dev, "chosen": far == 0})
    return trials


def _signals(rng: np.random.Generator, kl: float) -> dict[str, Any]:
    kl *= float(rng.uniform(0.93, 1.07))
    return {
        "advantage": {"mean": -kl, "std": 2.2 * kl, "p5": -4.2 * kl, "p50": -0.03, "p95": 0.8 * kl},
        "kl": kl,
        "ratio": None,
        "nll": None,
        "entropy": 0.2 + 0.3 * kl,
        "teacher_mass": math.exp(-0.6 * kl),
        "top_k_overlap": 0.8 - 0.2 * kl,
        "modality_gap": None,
        "length": float(rng.normal(14, 0.5)),
        "truncated": 0.01,
        "repetition": 0.02 + 0.01 * kl,
        "tokens": 900,
    }
