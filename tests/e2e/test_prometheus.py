"""/metrics of every service of a running system, read here and by a real Prometheus.

It is well formed, no series is there twice, labels are bounded, and nothing grows. Prometheus has the shipped
configuration, with shorter intervals, and with target files where it asks DNS: every expression of the dashboards and
of the rules finds its series.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.e2e.world import ROOT, Run, make_world
from tools.metrics_page import label_values, registries, series_of
from xopd.local.embedded_redis import HOST, free_port

pytestmark = pytest.mark.timeout(420)
SERVICES = ("trainer", "rollout", "teacher")
OF_HISTOGRAMS = {"le"}
"""The text format's own label; its values are the buckets of the code."""
SHIPPED = ROOT / "deploy" / "prometheus"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
PATIENCE_S = 90.0
"""How long a series may take to come after some steps were taken."""
MAY_BE_EMPTY = {
    "xopd_trainer_nll_nats": "only supervised methods have targets; the run is X-OPD",
    "sum by (reason) (increase(xopd_rollout_refused_total[5m]) > 0)": "nothing is refused where nothing is wrong",
    'ALERTS{alertname=~"Xopd.*"}': "nothing is wrong, so no alert fires",
}
"""Panels' expressions that find nothing in a healthy run, and why. Alerts' own expressions are empty while well."""
MAY_HOLD = {"XopdResponsesTruncated": "random weights seldom end a response before its limit"}
"""Alerts whose condition may hold in this small world, and why."""


class Prometheus:
    """A Prometheus server on the shipped configuration, as a context manager."""

    def __init__(self, folder: Path, targets: dict[str, int]) -> None:
        """Rewrite the configuration into `folder`, for `targets`: HTTP ports by service."""
        self.folder = folder
        self.port = free_port()
        shutil.copytree(SHIPPED / "rules", folder / "rules")
        (folder / "targets").mkdir()
        for service, port in targets.items():
            (folder / "targets" / f"{service}.yml").write_text(yaml.safe_dump([{"targets": [f"{HOST}:{port}"]}]))
        config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        for job in config["scrape_configs"]:
            job.pop("dns_sd_configs", None)
            for static in job.get("static_configs", []):
                static["targets"] = [f"{HOST}:{self.port}"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Prometheus:
        """Start it, and wait until it is ready."""
        self.log = self.folder / "prometheus.log"
        command = [
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
        ]
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while True:
            try:
                fetch(f"{self.url}/-/ready")
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    pytest.fail(f"Prometheus did not start:\n{self.log.read_text()[-3000:]}")
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://{HOST}:{self.port}"

    def query(self, promql: str) -> list[float]:
        """Values of the series that an expression finds now, NaN left out; a refused expression fails the test."""
        try:
            answer = json.loads(fetch(f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": promql})))
        except urllib.error.HTTPError as error:
            pytest.fail(f"{promql}: {error.read().decode()}")
        values = [float(series["value"][1]) for series in answer["data"]["result"]]
        return [value for value in values if not math.isnan(value)]

    def get(self, path: str) -> Any:
        """Data of another API call."""
        return json.loads(fetch(f"{self.url}/api/v1/{path}"))["data"]


def fetch(url: str) -> str:
    """The body of an answer."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


def panel_expressions() -> set[str]:
    """Every expression of every panel."""
    every = [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]
    return {target["expr"] for panel in every for target in panel.get("targets", [])}


def rules() -> list[dict[str, Any]]:
    """Every rule."""
    files = [yaml.safe_load(path.read_text()) for path in sorted((SHIPPED / "rules").glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def selectors(promql: str) -> set[str]:
    """The series that an expression reads, with their label matchers."""
    return set(re.findall(r"\b(?:xopd[:_][a-z0-9_:]+|up)\b(?:\{[^}]*\})?", promql))


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


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {service: free_port() for service in SERVICES}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, ports: dict[str, int]) -> Iterator[Prometheus | None]:
    """There from the run's beginning: what happens once, such as the encoding of clips, is seen as an increase."""
    if shutil.which("prometheus") is None:
        yield None
        return
    with Prometheus(tmp_path_factory.mktemp("prometheus"), ports) as running:
        yield running


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, ports: dict[str, int], prometheus: Prometheus | None
) -> Iterator[Run]:
    config = make_world(
        tmp_path_factory.mktemp("world"), run={"steps": 2000, "checkpoint_every": 2}, evals={"every": 2}
    )
    given = {"trainer.port": "trainer", "rollout.port": "rollout", "teacher.http_port": "teacher"}
    run = Run(config, *(part for name, service in given.items() for part in ("--set", f"{name}={ports[service]}")))
    yield run
    run.stop()


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


def test_every_expression_finds_its_series(run: Run, ports: dict[str, int], prometheus: Prometheus | None) -> None:
    if prometheus is None:
        pytest.skip("needs a Prometheus server (Debian: prometheus)")
    run.wait_for_step(12)
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    alerts = {rule["alert"]: rule["expr"] for rule in rules() if "alert" in rule}
    wanted = panel_expressions() | set(recorded) | set(recorded.values())
    wanted |= {series for expression in alerts.values() for series in selectors(expression)}

    missing = wanted - MAY_BE_EMPTY.keys()
    deadline = time.monotonic() + PATIENCE_S
    while missing and time.monotonic() < deadline:
        time.sleep(1.0)
        missing = {promql for promql in missing if not prometheus.query(promql)}
    assert missing == set()

    for promql, reason in MAY_BE_EMPTY.items():
        assert promql in wanted, f"no longer asked for: {promql} ({reason})"
        prometheus.query(promql)
    hold = {name for name, promql in alerts.items() if prometheus.query(promql)}
    assert hold <= MAY_HOLD.keys(), "a healthy run alerts"

    evaluated = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(evaluated) == len(recorded) + len(alerts)
    assert [rule for rule in evaluated if rule["health"] != "ok"] == []
    targets = prometheus.get("targets?state=active")["activeTargets"]
    assert sorted(target["labels"]["job"] for target in targets if target["health"] == "up") == [
        "prometheus",
        "xopd-rollout",
        "xopd-teacher",
        "xopd-trainer",
    ]
    for service, port in ports.items():
        assert f"xopd_{service}_" in fetch(f"http://{HOST}:{port}/metrics")
