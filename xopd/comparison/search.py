"""From the runs of a search to one learning rate an entry: the best mean of the three dev scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xopd.comparison.cells import Progress
from xopd.comparison.matrix import ComparisonFile, Matrix

PARTS = ("speech", "text", "retention")


def choose_rates(matrix: Matrix, cells: list[Progress], command: str) -> Path:
    """Write the results of a search beside the comparison's file; returns their path."""
    search = matrix.file.search
    assert search is not None
    trials = [_trial(cell) for cell in cells]
    for entry in {trial["entry"] for trial in trials}:
        of_entry = [trial for trial in trials if trial["entry"] == entry]
        max(of_entry, key=lambda trial: sum(trial["dev"].values()))["chosen"] = True
    results = {"about": _about(matrix.file, matrix), "command": command, "trials": trials}
    path = matrix.path.parent / search.results
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def read_search(file: ComparisonFile, path: Path) -> dict[str, Any] | None:
    """What a search found, for the report; None for a file without one."""
    if file.search is None:
        return None
    found: dict[str, Any] = json.loads((path.parent / file.search.results).read_text(encoding="utf-8"))
    return found


def _about(file: ComparisonFile, matrix: Matrix) -> str:
    assert file.search is not None
    rates = ", ".join(f"{rate:g}" for rate in file.search.learning_rates)
    split = matrix.shared.data.eval_split
    return (
        f"The same budget for each method: learning rates {rates}, one run each with seed {file.search.seed} and"
        f" {matrix.shared.run.steps} steps, judged on the split {split!r} by the mean of the accuracies by speech, by"
        " text and on the retention probe. No other setting was searched."
    )


def _trial(progress: Progress) -> dict[str, Any]:
    summary = json.loads(progress.folder.summary.read_text(encoding="utf-8"))
    rate = progress.cell.config.optimiser.learning_rate
    return {
        "entry": progress.cell.entry.name.removesuffix(f"-{rate:g}"),
        "learning_rate": rate,
        "dev": {part: summary["final"][part]["accuracy"] for part in PARTS},
        "chosen": False,
    }
