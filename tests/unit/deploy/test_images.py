"""Dockerfiles and docker-compose.yml, read: what holds of every image and every service."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.unit.deploy.conftest import ROOT
from xopd.config import load_config
from xopd.security import refuse_insecure_address, refuse_insecure_calls, refuse_insecure_redis

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
IMAGES = ("teacher", "rollout", "trainer")
each_image = pytest.mark.parametrize("name", IMAGES)


def dockerfile(name: str) -> str:
    return (ROOT / "services" / name / "Dockerfile").read_text()


def test_hadolint_finds_nothing(lint: ModuleType) -> None:
    try:
        assert lint.lint_dockerfiles() == []
    except lint.LeftOutError as why:
        pytest.skip(f"linting the Dockerfiles {why}")


@each_image
def test_an_image_is_pinned_unprivileged_and_watched(name: str) -> None:
    text = dockerfile(name)
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-bookworm$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", last, re.MULTILINE)
    assert f'ENTRYPOINT ["python", "-m", "xopd_{name}"]' in last
    assert "pip install" not in last


@each_image
def test_an_image_installs_sets_that_exist_and_nothing_unlisted(name: str) -> None:
    text = dockerfile(name)
    sets = set(re.findall(r"requirements/([\w-]+\.txt)", text))
    assert sets
    assert all((ROOT / "requirements" / each).exists() for each in sets)
    assert len(re.findall(r"pip install", text)) == len(re.findall(r"pip install (?:--no-cache-dir )?--no-deps", text))


@each_image
def test_what_is_copied_is_in_the_context(name: str) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(name), re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert any(pattern.split("/")[0] == source.split("/")[0] for pattern in allowed), source
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_scaled_services_have_no_name_or_port_of_their_own() -> None:
    for name, about in SERVICES.items():
        assert "container_name" not in about
        if name.split("-")[0] in ("teacher", "rollout"):
            assert "ports" not in about
        assert all(port.startswith("127.0.0.1:") for port in about.get("ports", ()))


def test_scaled_containers_find_and_are_found() -> None:
    """What would make `--scale teacher=3 --scale rollout=4` three or four times the same container, or hide some."""
    scaled = {name: about for name, about in SERVICES.items() if name.split("-")[0] in ("teacher", "rollout")}
    assert len(scaled) == 4
    for name, about in scaled.items():
        assert not {"hostname", "container_name", "ports", "network_mode"} & about.keys(), name
        assert isinstance(about["deploy"]["replicas"], int)
        # A name of its own comes from the container's host name, an address from its network.
        assert not {"XOPD_ROLLOUT__POD_ID", "XOPD_ROLLOUT__ANNOUNCE"} & about["environment"].keys()
        assert about["environment"][f"XOPD_{name.split('-')[0].upper()}__HOST"] == "0.0.0.0"
    # One name for all teachers, which resolves to one address a container; a list of containers would be out of date.
    teacher = SERVICES["teacher"]["environment"]["XOPD_TEACHER__PORT"]
    assert SERVICES["trainer"]["environment"]["XOPD_TEACHER__ENDPOINTS"] == f'["teacher:{teacher}"]'
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in prometheus["scrape_configs"]}
    for name in ("teacher", "rollout"):
        (discovery,) = jobs[f"xopd-{name}"]["dns_sd_configs"]
        assert (discovery["names"], discovery["type"]) == ([name], "A")


def test_every_service_is_hardened_and_limited() -> None:
    for name, about in SERVICES.items():
        assert about["read_only"] is True, name
        assert about["cap_drop"] == ["ALL"], name
        assert about["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "memory"} <= about["deploy"]["resources"]["limits"].keys(), name
        assert not about["image"].endswith(":latest"), name
        assert ":" in about["image"], name


def environment(name: str, *files: str) -> dict[str, str]:
    """A service's variables, later files over earlier ones."""
    merged: dict[str, str] = {}
    for file in files:
        merged |= yaml.safe_load((ROOT / file).read_text())["services"][name].get("environment", {})
    return merged


@pytest.mark.parametrize("name", [name for name in SERVICES if name.split("-")[0] in IMAGES])
def test_every_service_asks_for_the_token_and_says_that_it_has_no_tls(name: str) -> None:
    plain = environment(name, "docker-compose.yml")
    assert plain["XOPD_SECURITY__TOKEN"].startswith("${SERVICE_TOKEN:?")
    assert plain["XOPD_SECURITY__INSECURE"] == "true"
    assert "docs/SECURITY.md" in (ROOT / "docker-compose.yml").read_text()


@pytest.mark.parametrize("name", [name for name in SERVICES if name.split("-")[0] in IMAGES])
def test_with_tls_no_service_is_told_to_be_insecure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = environment(name, "docker-compose.yml", "deploy/compose-tls.yml")
    with monkeypatch.context() as patched:
        for variable, value in closed.items():
            if variable.startswith("XOPD_"):
                value = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
                patched.setenv(variable, re.sub(r"\$\{[^}]*\}", "0123456789abcdef", value))
        config = load_config(ROOT / "examples" / "tiny" / "demo.yaml")
    for setting in ("teacher.host", "rollout.host", "trainer.host"):
        refuse_insecure_address(config, setting, "0.0.0.0")
    refuse_insecure_redis(config)
    refuse_insecure_calls(config)
    assert config.security.mutual_tls


def test_redis_keeps_its_options_with_tls() -> None:
    tls = yaml.safe_load((ROOT / "deploy" / "compose-tls.yml").read_text())["services"]["redis"]["command"]
    plain = SERVICES["redis"]["command"]
    assert tls[:4] == plain[:4]
    assert tls[-len(plain) + 4 :] == plain[4:]
    assert "REDIS_PASSWORD" not in str(tls) + str(plain)


def test_both_profiles_have_every_part_under_the_same_names() -> None:
    for profile in ("cpu", "gpu"):
        there = {name for name, about in SERVICES.items() if profile in about.get("profiles", [profile])}
        aliases = {alias for name in there for alias in _aliases(name)}
        assert {"redis", "teacher", "rollout", "trainer", "prometheus", "grafana"} <= there | aliases


def _aliases(name: str) -> list[str]:
    networks = SERVICES[name]["networks"]
    return [] if isinstance(networks, list) else list(networks["xopd"]["aliases"])


def test_the_example_environment_names_what_compose_reads() -> None:
    files = (ROOT / "docker-compose.yml", ROOT / "deploy" / "compose-tls.yml")
    read = {name for path in files for name in re.findall(r"\$\{(\w+)", path.read_text())}
    lines = (ROOT / ".env.example").read_text().splitlines()
    named = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(named) == read | {"COMPOSE_PROFILES"}
    assert {value for name, value in named.items() if name.endswith(("PASSWORD", "TOKEN"))} == {""}
    # Such variables, exported, would be refused by the services as unknown settings.
    assert not any(name.startswith("XOPD_") for name in named)
