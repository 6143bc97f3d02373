"""docs/METRICS.md is what the code exports, and what it exports is well formed."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from xopd_trainer.learning.learner import StepResult
from xopd_trainer.telemetry.metrics import TrainerMetrics
from xopd_trainer.telemetry.step import observed_step

from tools.metrics_page import BY_LABEL, BY_SERIES, PAGE, Series, label_values, page, registries, series_of
from xopd.ledger import Accounts
from xopd.scoring import client
from xopd.telemetry import NO_TRACER
from xopd.v1 import trajectory_pb2 as pb

SERVICES = ("trainer", "rollout", "teacher")


def documented(service: str) -> list[Series]:
    return list(series_of(registries()[service]))


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run make docs"


@pytest.mark.parametrize("service", SERVICES)
def test_every_series_says_what_it_is(service: str) -> None:
    for series in documented(service):
        assert series.help, series.name
        assert series.unit, series.name
        assert re.fullmatch(rf"xopd_{service}_[a-z0-9_]+|process_[a-z_]+", series.name)


@pytest.mark.parametrize("service", SERVICES)
def test_labels_are_bounded(service: str) -> None:
    for series in documented(service):
        for label in series.labels:
            assert 1 < len(label_values(series.name, label)) < 20, (series.name, label)


def test_only_labels_that_there_are_have_values() -> None:
    labels = {series.name: set(series.labels) for service in SERVICES for series in documented(service)}
    for name, about in BY_SERIES.items():
        assert set(about) <= labels[name]
    assert set(BY_LABEL) <= set.union(*labels.values())


@pytest.mark.parametrize("service", SERVICES)
def test_no_series_is_shown_twice(service: str) -> None:
    text = generate_latest(registries()[service]).decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    counts = Counter((s.name, tuple(sorted(s.labels.items()))) for s in samples)
    assert [key for key, count in counts.items() if count > 1] == []


def test_a_step_fills_the_trainers_figures() -> None:
    metrics = TrainerMetrics()
    metrics.record_step(
        {"step": 3, "policy_version": 3, "seconds": {"rollout": 1.0, "total": 2.0}},
        StepResult(float("nan"), 0.1, None, 1.0, 1e-4, True, {}, {"rollout": 48, "teacher": 64, "trainer": 96}),
        Accounts(dispatched=8, trained=8, redispatched=2),
    )
    metrics.record_lag(1, 2)
    metrics.record_published(100)
    metrics.record_published(250)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("xopd_trainer_steps_skipped_total") == 1
    stages = ("rollout", "teacher", "trainer")
    assert [value("xopd_trainer_tokens_total", stage=stage) for stage in stages] == [48, 64, 96]
    assert value("xopd_trainer_trajectories", outcome="redispatched") == 2
    assert value("xopd_trainer_policy_lag", part="in_flight") == 1
    assert value("xopd_trainer_policy_lag", part="in_queue") == 2
    assert value("xopd_trainer_published_bytes_total") == 250
    assert value("xopd_trainer_loss", part="in") == 0.1
    assert value("xopd_trainer_loss", part="cross") is None


async def test_policy_lag_is_split_where_the_answer_arrives() -> None:
    """Sampled from versions 3 and 4, come when 5 was the newest, trained by version 7 in step 8."""
    answer = pb.TrajectoryGroup(
        trajectories=[
            pb.Trajectory(token_ids=[1, 2], policy_versions=[4, 4]),
            pb.Trajectory(token_ids=[1], policy_versions=[3]),
        ]
    )
    arrived = asyncio.get_running_loop().create_future()
    arrived.set_result(answer)
    teacher: Any = SimpleNamespace(counters=client.Counters())
    with observed_step(NO_TRACER, teacher, lambda: 5, 8, {}) as seen:
        assert await seen.arrival(arrived, trace.INVALID_SPAN) is answer
    result = StepResult(0.0, 0.0, None, 0.0, 0.0, False, {}, {"rollout": 0, "teacher": 0, "trainer": 0})
    finished = seen.finished(result, 5)
    assert (finished.lag_in_flight, finished.lag_in_queue) == (2, 2)
