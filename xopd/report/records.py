"""The records that a run writes and the trainer serves, read leniently: unknown fields are ignored.

`metrics.jsonl` holds StepRecord, ProbeRecord, EvalRecord and EventRecord lines; `summary.json` is a Summary.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xopd.errors import UserError
from xopd.evals.gap import why_no_share
from xopd.jsonl import NOT_JSON, read_json_lines

Seconds = dict[str, float]
"""Seconds by stage: rollout, score, learn, sync, wait, and in step records total."""

R = TypeVar("R", bound=BaseModel)


class Record(BaseModel):
    """A JSON object; fields it does not know are ignored, so that old readers read new runs."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class Score(Record):
    """A share of right answers with its 95 % interval."""

    accuracy: float
    n: int
    ci95: tuple[float, float] | None = None
    cut: int = 0
    """Answers that reached the longest length without an end: they count as wrong."""
    unanswered: int = 0
    """Items without an answer, such as those whose clip cannot be read: they count as wrong."""


class Spread(Record):
    """A distribution over tokens, in nats."""

    mean: float
    p5: float | None = None
    p50: float | None = None
    p95: float | None = None


class ModalityStep(Record):
    """One step's or probe's figures for the responses to one modality's prompts; None for what a method has not."""

    advantage: Spread | None = None
    kl: float | None = None
    """Estimated reverse KL to the teacher, nats a token: the mean of -A."""
    nll: float | None = None
    """Negative log-likelihood of a supervised method's targets, nats a token."""
    entropy: float | None = None
    length: float | None = None
    truncated: float | None = None
    """Share of responses that reached max_new_tokens."""
    tokens: float | None = None
    repetition: float | None = None
    """Share of a response's 4-grams that occurred in it before."""
    teacher_mass: float | None = None
    """Mean probability of the sampled tokens under the teacher."""
    top_k_overlap: float | None = None
    """Share of the policy's k most probable tokens that are among the teacher's k."""
    modality_gap: float | None = None
    """KL(policy given speech ‖ policy given text) on the same tokens, nats a token; of speech only."""


class ProbeRecord(Record):
    """Signals of on-policy responses to dev items at temperature 1, measured alike whatever the method."""

    step: int
    text: ModalityStep | None = None
    speech: ModalityStep | None = None


class StepRecord(ProbeRecord):
    """One optimiser step, and the signals of the responses that it learned from."""

    loss: float | None = None
    loss_in: float | None = None
    loss_cross: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    seconds: Seconds = Field(default_factory=dict)
    tokens_per_s: dict[str, float] = Field(default_factory=dict)


class EvalRecord(Record):
    """One evaluation: scores by `speech`, `text`, `retention`."""

    step: int
    split: str = "dev"
    scores: dict[str, Score | None] = Field(default_factory=dict)


class EventRecord(Record):
    """Something that happened, such as `resumed` or `pod_joined`."""

    step: int = 0
    time: float = 0.0
    event: str = ""
    detail: str = ""


KINDS: dict[str, type[Record]] = {
    "step": StepRecord,
    "probe": ProbeRecord,
    "eval": EvalRecord,
    "event": EventRecord,
}
"""The lines of metrics.jsonl by their `kind`."""


class Accounts(Record):
    """Where every trajectory went."""

    dispatched: int = 0
    trained: int = 0
    given_up: int = 0
    under_way: int = 0
    duplicates_dropped: int = 0
    stale_dropped: int = 0
    lost: int = 0


class ModelScores(Record):
    """Scores of one model; None for what was not evaluated."""

    speech: Score | None = None
    text: Score | None = None
    retention: Score | None = None


class Difference(Record):
    """Mean of final minus base over the same items, with its 95 % paired bootstrap interval."""

    mean_difference: float
    ci95: tuple[float, float] | None = None


class Summary(Record):
    """summary.json."""

    run_name: str = ""
    method: str = "xopd"
    seed: int = 0
    steps: int = 0
    wall_s: float = 0.0
    lambda_: float | None = Field(None, alias="lambda")
    teacher: ModelScores = Field(default_factory=ModelScores)
    base: ModelScores = Field(default_factory=ModelScores)
    final: ModelScores = Field(default_factory=ModelScores)
    drop: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    gap: Difference | None = None
    """The teacher's text score minus the base's speech score, over the same items."""
    gap_closed: float | None = None
    """None where the items cannot tell the gap from none."""
    paired: dict[str, Difference | None] = Field(default_factory=dict)
    bounds: dict[str, Any] = Field(default_factory=dict)
    trajectories: Accounts = Field(default_factory=Accounts)
    policy_lag: dict[str, float] = Field(default_factory=dict)
    engine: dict[str, Any] = Field(default_factory=dict)
    throughput: dict[str, float | None] = Field(default_factory=dict)
    seconds: Seconds = Field(default_factory=dict)
    finished_at: float | str | None = None
    machine: dict[str, Any] = Field(default_factory=dict)

    def why_no_share(self) -> str:
        """Why `gap_closed` is None, as a sentence without its full stop; empty where it is not, or nobody knows."""
        if self.gap_closed is not None or self.gap is None:
            return ""
        return why_no_share(self.gap.mean_difference, self.gap.ci95)


@dataclass(frozen=True)
class RunFiles:
    """A run's folder, read."""

    folder: Path
    steps: list[StepRecord] = field(default_factory=list)
    probes: list[ProbeRecord] = field(default_factory=list)
    evals: list[EvalRecord] = field(default_factory=list)
    events: list[EventRecord] = field(default_factory=list)
    summary: Summary | None = None
    config_yaml: str = ""


def read_run(folder: str | Path) -> RunFiles:
    """Read a run's metrics, summary and configuration; a torn last line is skipped.

    After a resume some steps stand twice: the later line counts.

    Raises:
        UserError: if `folder` is no run.
    """
    folder = Path(folder)
    metrics, summary, config = folder / "metrics.jsonl", folder / "summary.json", folder / "config.yaml"
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run; give the folder of a run, such as runs/NAME.")
    if not metrics.exists() and not summary.exists():
        raise UserError(f"{folder}: holds neither metrics.jsonl nor summary.json; give the folder of a run.")
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for raw in read_json_lines(metrics):
        kind = str(raw.get("kind"))
        with contextlib.suppress(ValidationError, KeyError):
            found[kind].append(KINDS[kind].model_validate(raw))
    steps, probes = ({record.step: record for record in found[kind]} for kind in ("step", "probe"))
    evals = {(record.split, record.step): record for record in found["eval"]}
    return RunFiles(
        folder,
        [steps[number] for number in sorted(steps)],
        [probes[number] for number in sorted(probes)],
        [evals[place] for place in sorted(evals)],
        found["event"],
        read_summary(summary) if summary.exists() else None,
        config.read_text(encoding="utf-8") if config.exists() else "",
    )


def read_summary(path: Path) -> Summary:
    """Read a summary.json. Raises UserError if it is none."""
    return read_record(Summary, path, "give the folder of a finished run")


def read_record(kind: type[R], path: Path, advice: str) -> R:
    """Read the one record that a JSON file holds.

    Raises:
        UserError: if there is none; where the file cannot be read it ends with `advice`.
    """
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: `{where}`: {first['msg']}; it was not written by this version.") from None
    except (OSError, *NOT_JSON) as error:
        raise UserError(f"{path}: cannot be read ({error}); {advice}.") from None
