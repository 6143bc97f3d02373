"""summary.json: what the run came to."""

from __future__ import annotations

import time
from typing import Any

from xopd.config import Config
from xopd.evals.bounds import CEILING
from xopd.evals.bounds import read_bounds as read_all_bounds
from xopd.evals.gap import share_closed, speech_gap
from xopd.evals.intervals import paired_bootstrap
from xopd.evals.verdicts import Evaluation
from xopd.ledger import Accounts
from xopd.service.machine import describe_machine
from xopd.status.model import RunStatus


def make_summary(
    config: Config,
    status: RunStatus,
    accounts: Accounts,
    teacher: Evaluation,
    base: Evaluation,
    final: Evaluation,
    tokens_per_s: dict[str, float],
    wall_s: float,
) -> dict[str, Any]:
    """The summary of a finished run.

    *drop* is the paper's: 100 (teacher.text - x) / teacher.text, in percent. *gap* is how far the base's
    speech score lies below the teacher's, over the same items; *gap_closed* is the share of it that is gone, None where
    the items cannot tell the gap from none.
    """
    asked = teacher.as_json()["text"]
    top = float(asked["accuracy"])
    scores = {"base": base.as_json(), "final": final.as_json()}

    def _drop(which: str) -> dict[str, float | None]:
        parts = {m: scores[which][m]["accuracy"] for m in ("speech", "text")}
        return {m: 100.0 * (top - value) / top if top else None for m, value in parts.items()}

    gap = speech_gap(base.right("speech"), teacher.right("text"))
    gained = final.scores()["speech"].accuracy - base.scores()["speech"].accuracy
    return {
        "run_name": config.run.name,
        "method": config.objective.method,
        "lambda": config.objective.lambda_,
        "seed": config.run.seed,
        "steps": config.run.steps,
        "wall_s": wall_s,
        "teacher": {"text": asked},
        **scores,
        "drop": {which: _drop(which) for which in scores},
        "gap": None if gap is None else gap.as_json(),
        "gap_closed": share_closed(gained, gap),
        "paired": {part: _paired(base, final, part) for part in scores["base"]},
        "bounds": read_bounds(config.evals.bounds),
        "trajectories": {k: v for k, v in accounts.as_json().items() if k != "policy_lag_max"},
        "policy_lag": {"max": accounts.policy_lag_max},
        "engine": _engines(status),
        "throughput": {f"{stage}_tokens_per_s": value for stage, value in tokens_per_s.items()},
        "seconds": status.seconds,
        "finished_at": time.time(),
        "machine": describe_machine(),
    }


def _engines(status: RunStatus) -> dict[str, str]:
    """Names and versions of the engines, such as `vllm 0.32.0`; several are joined."""
    pods = {f"{pod.engine} {pod.engine_version}" for pod in status.pods}
    teachers = {teacher.engine for teacher in status.teachers if teacher.engine}
    return {"rollout": ", ".join(sorted(pods)), "teacher": ", ".join(sorted(teachers))}


def read_bounds(path: str | None) -> dict[str, Any]:
    """The entries of a bounds file that are accuracies, such as the information ceiling.

    Raises:
        UserError: if the file cannot be read.
    """
    bounds = {} if path is None else read_all_bounds(path)
    return {name: value for name, value in bounds.items() if name == CEILING}


def _paired(base: Evaluation, final: Evaluation, part: str) -> dict[str, object]:
    before, after = base.right(part), final.right(part)
    ids = sorted(before)
    return paired_bootstrap([before[i] for i in ids], [after[i] for i in ids]).as_json()
