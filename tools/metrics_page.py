"""Write docs/METRICS.md from the registries in code (`make docs`), or say that it is not current (`--check`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import StatusCode
from prometheus_client import CollectorRegistry
from xopd_rollout.metrics import ACTIVITIES, FAILURES, FINISH_REASONS, PURPOSES, REFUSALS, RolloutMetrics
from xopd_teacher.metrics import DROP_REASONS, KINDS, METHODS, TeacherMetrics
from xopd_trainer.state.status import STAGES
from xopd_trainer.telemetry.metrics import ITEM_REASONS, LAG_PARTS, TOKEN_STAGES, TrainerMetrics

from xopd.ledger import Accounts
from xopd.telemetry.clock import ActivityClock
from xopd.wire import MODALITY_NAMES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "METRICS.md"
INTRODUCTION = """# Metrics
Every service shows these at `/metrics` of its HTTP port, in Prometheus's text format. This page is made from the code
by `make docs`.

- A counter's name ends in `_total` there; a histogram has `_bucket`, `_sum` and `_count`; either has `_created`, the
  time at which it began.
- Labels have few values each, known beforehand ([below](#values-of-labels)). Which pod a series belongs to is
  Prometheus's own label `instance`.
- A gauge by modality is there once that modality was trained on, so a text-only run has no `speech`; a figure that the
  method does not have (a supervised one has no advantages) is left out.
- A *share* is between 0 and 1. *nats* are natural logarithms. Rates are left to PromQL:
  `rate(xopd_rollout_generated_tokens_total[1m])` is tokens a second.
"""
UNITS = {
    "seconds": "seconds",
    "bytes": "bytes",
    "nats": "nats",
    "share": "share",
    "tokens": "tokens",
    "groups": "groups",
    "requests": "requests",
    "trajectories": "trajectories",
    "entries": "entries",
    "updates": "updates",
    "version": "version",
    "letters": "entries",
    "redeliveries": "groups",
    "errors": "errors",
    "failures": "batches",
    "waits": "waits",
    "ready": "0 or 1",
    "up": "0 or 1",
    "training": "0 or 1",
    "fds": "file descriptors",
}
"""Unit by the last word of a name."""
UNITS_BY_NAME = {
    "xopd_rollout_finish": "responses",
    "xopd_rollout_policy_lag": "versions",
    "xopd_rollout_queue_depth": "groups",
    "xopd_rollout_refused": "messages, prompts, clips",
    "xopd_teacher_non_finite": "answers",
    "xopd_teacher_queue_depth": "requests",
    "xopd_trainer_accuracy": "share",
    "xopd_trainer_gradient_norm": "the loss's unit",
    "xopd_trainer_importance_ratio_max": "ratio",
    "xopd_trainer_importance_ratio_mean": "ratio",
    "xopd_trainer_importance_ratio_std": "ratio",
    "xopd_trainer_learning_rate": "rate",
    "xopd_trainer_loss": "nats",
    "xopd_trainer_mended_weights": "versions",
    "xopd_trainer_policy_lag": "versions",
    "xopd_trainer_policy_lag_max": "versions",
    "xopd_trainer_refused_answers": "answers",
    "xopd_trainer_refused_items": "items",
    "xopd_trainer_refused_scores": "answers",
    "xopd_trainer_response_tokens_mean": "tokens",
    "xopd_trainer_step": "steps",
    "xopd_trainer_steps_skipped": "steps",
    "xopd_trainer_teacher_mass": "share",
    "xopd_trainer_top_k_overlap": "share",
}
BY_LABEL: dict[str, tuple[str, ...]] = {
    "modality": tuple(MODALITY_NAMES.values()),
    "purpose": tuple(PURPOSES.values()),
    "activity": ("busy", "sync", "idle"),
    "method": METHODS,
    "kind": KINDS,
    "stream": ("prompts", "trajectories", "dead"),
    "split": ("test", "dev"),
}
"""The values of labels that mean the same everywhere."""
BY_SERIES: dict[str, dict[str, tuple[str, ...]]] = {
    "xopd_rollout_groups": {"outcome": ("ok", *FAILURES.values())},
    "xopd_rollout_finish": {"reason": tuple(FINISH_REASONS.values())},
    "xopd_rollout_refused": {"reason": REFUSALS},
    "xopd_teacher_requests": {"outcome": tuple(code.name.lower() for code in StatusCode)},
    "xopd_teacher_dropped_requests": {"reason": DROP_REASONS},
    "xopd_trainer_loss": {"part": ("total", "in", "cross")},
    "xopd_trainer_policy_lag": {"part": LAG_PARTS},
    "xopd_trainer_accuracy": {"part": ("speech", "text", "retention")},
    "xopd_trainer_refused_items": {"reason": ITEM_REASONS},
    "xopd_trainer_stage_seconds": {"stage": (*STAGES, "total")},
    "xopd_trainer_tokens": {"stage": TOKEN_STAGES},
    "xopd_trainer_trajectories": {"outcome": tuple(name for name in Accounts().as_json() if name != "policy_lag_max")},
}
"""The values of labels that are a series' own."""
PROCESS_HELP = {
    "process_virtual_memory_bytes": "Address space of the process",
    "process_resident_memory_bytes": "Memory of the process",
    "process_start_time_seconds": "When the process began (epoch)",
    "process_cpu_seconds": "CPU time of the process",
    "process_open_fds": "Open file descriptors",
    "process_max_fds": "Most open file descriptors",
}
"""The process's own figures come from the client library; its help texts are longer."""


@dataclass(frozen=True)
class Series:
    """One metric family."""

    name: str
    """As in code: without `_total`."""
    kind: str
    labels: tuple[str, ...]
    help: str
    unit: str


def registries() -> dict[str, CollectorRegistry]:
    """A fresh registry of each service, by its name."""
    return {
        "trainer": TrainerMetrics().registry,
        "rollout": RolloutMetrics(ActivityClock(*ACTIVITIES)).registry,
        "teacher": TeacherMetrics().registry,
    }


def series_of(registry: CollectorRegistry) -> Iterator[Series]:
    """The metric families of a registry, in the order of the code.

    Raises:
        KeyError: for a metric whose name tells no unit; name it in UNITS_BY_NAME.
    """
    labels: dict[str, tuple[str, ...]] = {}
    collectors: dict[Any, list[str]] = registry._collector_to_names
    for collector in collectors:
        if hasattr(collector, "_labelnames"):
            labels[collector._name] = tuple(collector._labelnames)
    for family in registry.collect():
        name = family.name
        unit = UNITS_BY_NAME.get(name) or UNITS[name.rsplit("_", 1)[-1]]
        text = PROCESS_HELP.get(name, family.documentation)
        yield Series(name, family.type, labels.get(name, ()), text, unit)


def label_values(series: str, label: str) -> tuple[str, ...]:
    """All values that a label of a series (its name in code) can have; KeyError for one that is not written down."""
    return BY_SERIES[series][label] if label in BY_SERIES.get(series, {}) else BY_LABEL[label]


def shown_name(series: Series) -> str:
    """The name that an expression uses: of a histogram, its stem."""
    return f"{series.name}_total" if series.kind == "counter" else series.name


def exported_names() -> set[str]:
    """Every name that may stand in an expression."""
    names: set[str] = set()
    for registry in registries().values():
        for series in series_of(registry):
            if series.kind == "histogram":
                names |= {f"{series.name}_{part}" for part in ("bucket", "sum", "count")}
            else:
                names.add(shown_name(series))
    return names


def page() -> str:
    """The text of docs/METRICS.md."""
    lines = [INTRODUCTION]
    for service, registry in registries().items():
        lines += [f"## {service}", "", "| name | type | labels | unit | meaning |", "| --- | --- | --- | --- | --- |"]
        for series in series_of(registry):
            labels = ", ".join(f"`{label}`" for label in series.labels)
            lines.append(f"| `{shown_name(series)}` | {series.kind} | {labels} | {series.unit} | {series.help} |")
        lines.append("")
    lines += ["## Values of labels", "", "| label | of | values |", "| --- | --- | --- |"]
    rows = [(label, "every series that has it", values) for label, values in BY_LABEL.items()]
    rows += [(label, f"`{name}`", values) for name, labels in BY_SERIES.items() for label, values in labels.items()]
    lines += [f"| `{label}` | {of} | {', '.join(values)} |" for label, of, values in rows]
    return "\n".join([*lines, ""])


def main() -> int:
    """Exit status 1 when `--check` found the page not current."""
    parser = argparse.ArgumentParser(description="Write docs/METRICS.md, or check it.")
    parser.add_argument("--check", action="store_true", help="change nothing; say whether the page is current")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    sys.stderr.write("docs/METRICS.md is not current: run make docs\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
