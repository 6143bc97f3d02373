"""/metrics of every service of a running system: well formed, no series twice, labels bounded, nothing that grows."""

from __future__ import annotations

import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.e2e.world import Run, make_world
from tools.metrics_page import label_values, registries, series_of
from xopd.local.embedded_redis import HOST, free_port

pytestmark = pytest.mark.timeout(420)
SERVICES = ("trainer", "rollout", "teacher")
OF_HISTOGRAMS = {"le"}
"""The text format's own label; its values are the buckets of the code."""


@pytest.fixture
def ports() -> dict[str, int]:
    return {service: free_port() for service in SERVICES}


@pytest.fixture
def run(tmp_path: Path, ports: dict[str, int]) -> Iterator[Run]:
    config = make_world(tmp_path, run={"steps": 2000, "checkpoint_every": 2}, evals={"every": 2})
    given = {"trainer.port": "trainer", "rollout.port": "rollout", "teacher.http_port": "teacher"}
    run = Run(config, *(part for name, service in given.items() for part in ("--set", f"{name}={ports[service]}")))
    yield run
    run.stop()


def samples(port: int) -> list[Sample]:
    """What a service shows, read as Prometheus reads it."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=")
        page = answer.read().decode()
    return [sample for family in text_string_to_metric_families(page) for sample in family.samples]


def identity(sample: Sample) -> tuple[str, tuple[tuple[str, str], ...]]:
    return sample.name, tuple(sorted(sample.labels.items()))


def unbounded(service: str, shown: list[Sample]) -> list[str]:
    """Names and label values that docs/METRICS.md does not have."""
    known = {series.name: series for series in series_of(registries()[service])}
    found = []
    for sample in shown:
        stem = next((name for name in (sample.name, sample.name.rpartition("_")[0]) if name in known), None)
        if stem is None:
            found.append(sample.name)
            continue
        for label, value in sample.labels.items():
            if label not in OF_HISTOGRAMS and value not in label_values(stem, label):
                found.append(f"{sample.name}{{{label}={value!r}}}")
    return found


def test_series_are_single_bounded_and_do_not_grow(run: Run, ports: dict[str, int]) -> None:
    run.wait_for_step(2)
    early = {service: samples(port) for service, port in ports.items()}
    run.wait_for_step(6)
    late = {service: samples(port) for service, port in ports.items()}
    for service in SERVICES:
        for shown in (early[service], late[service]):
            assert len(shown) > 20
            counts = Counter(map(identity, shown))
            assert [series for series, count in counts.items() if count > 1] == [], service
            assert unbounded(service, shown) == [], service
        assert {identity(sample) for sample in late[service]} == {identity(sample) for sample in early[service]}
