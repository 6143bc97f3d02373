"""Every overlay of deploy/k8s, rendered by kustomize: valid by the schemas, and consistent with the services."""

from __future__ import annotations

import copy
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from xopd_teacher.server import LAST_WORDS_S
from xopd_trainer.run import STOP_GRACE_S

from tests.unit.deploy.conftest import ROOT
from tools.metrics_page import exported_names
from xopd.config import Config, load_config
from xopd.families.registry import FAMILIES
from xopd.security import refuse_insecure_address, refuse_insecure_calls, refuse_insecure_redis
from xopd.service.lifecycle import STOPPED_STATUSES

Resource = dict[str, Any]
Render = Callable[[str], list[Resource]]
OVERLAYS = sorted(path.parent.name for path in (ROOT / "deploy" / "k8s" / "overlays").glob("*/kustomization.yaml"))
SYSTEMS = [name for name in OVERLAYS if name.startswith(("tiny", "qwen3"))]
NAME = "app.kubernetes.io/name"
MADE_BY_HAND = {("redis-auth", "password"), ("service-token", "token"), ("grafana-admin", "password")}
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
each_system = pytest.mark.parametrize("overlay", SYSTEMS)


def of_kind(resources: list[Resource], *kinds: str) -> dict[str, Resource]:
    return {each["metadata"]["name"]: each for each in resources if each["kind"] in kinds}


def templates(resources: list[Resource]) -> dict[str, Resource]:
    """Pod templates by the resource's name."""
    found = {}
    for name, each in of_kind(resources, "Deployment", "StatefulSet", "Job", "JobSet").items():
        spec = each["spec"]
        found[name] = (spec["replicatedJobs"][0]["template"]["spec"] if each["kind"] == "JobSet" else spec)["template"]
    return found


def container(template: Resource) -> Resource:
    (only,) = template["spec"]["containers"]
    return dict(only)


def settings(resources: list[Resource], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """What service `name` reads: the configuration's file and its own environment."""
    (config_map,) = (each for each in of_kind(resources, "ConfigMap").values())
    (tmp_path / "config.yaml").write_text(config_map["data"]["config.yaml"])
    with monkeypatch.context() as patched:
        for variable in container(templates(resources)[name])["env"]:
            if variable["name"].startswith("XOPD_"):
                patched.setenv(variable["name"], variable.get("value", "from-a-field-or-a-secret"))
        return load_config(tmp_path / "config.yaml")


def test_there_are_the_overlays() -> None:
    assert {"tiny-cpu", "qwen3-omni-gpu", "observability", "autoscale-keda", "autoscale-hpa"} <= set(OVERLAYS)


@each_overlay
def test_it_renders_and_is_valid(overlay: str, rendered: Render, lint: ModuleType) -> None:
    resources = rendered(overlay)
    assert lint.problems(resources) == []
    scoped = [each for each in resources if each["kind"] not in ("Namespace", "PriorityClass")]
    assert {each["metadata"]["namespace"] for each in scoped} == {"xopd"}
    assert not of_kind(resources, "Secret")


def test_manifests_of_no_overlay_are_valid(lint: ModuleType) -> None:
    assert lint.lint_loose() == []
    secrets = lint.load((ROOT / "deploy" / "k8s" / "secret.example.yaml").read_text())
    assert {(each["metadata"]["name"], *each["stringData"]) for each in secrets} < MADE_BY_HAND
    assert {value for each in secrets for value in each["stringData"].values()} == {""}


@pytest.mark.parametrize(
    ("overlay", "kind", "path"),
    [
        ("tiny-cpu", "Deployment", ("spec", "template", "spec")),
        ("tiny-cpu", "NetworkPolicy", ("spec",)),
        ("autoscale-keda", "ScaledObject", ("spec",)),
        ("autoscale-hpa", "HorizontalPodAutoscaler", ("spec", "behavior", "scaleDown")),
        ("qwen3-omni-gpu-jobset", "JobSet", ("spec", "failurePolicy")),
        ("tiny-cpu", "Certificate", ("spec", "privateKey")),
        ("tiny-cpu", "Issuer", ("spec",)),
    ],
)
def test_a_misspelt_field_is_found(
    overlay: str, kind: str, path: tuple[str, ...], rendered: Render, lint: ModuleType
) -> None:
    wrong = copy.deepcopy(next(each for each in rendered(overlay) if each["kind"] == kind))
    node = wrong
    for key in path:
        node = node[key]
    node["terminatoinGracePeriodSeconds"] = 3
    (problem,) = lint.problems([wrong])
    assert "terminatoin" in problem


@each_system
def test_every_service_accepts_its_settings(
    overlay: str, rendered: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = rendered(overlay)
    trainer = settings(resources, "trainer", tmp_path, monkeypatch)
    rollout = settings(resources, "rollout", tmp_path, monkeypatch)
    teacher = settings(resources, "teacher", tmp_path, monkeypatch)
    assert trainer.teacher.endpoints == [f"teacher:{teacher.teacher.port}"]
    assert trainer.redis == rollout.redis
    assert trainer.redis.url == "rediss://redis:6379/0"
    assert teacher.teacher.path == trainer.teacher.path  # the trainer reads its tokenizer
    assert trainer.student == rollout.student

    pods = {name: template["spec"] for name, template in templates(resources).items()}
    grace = {name: pod.get("terminationGracePeriodSeconds") for name, pod in pods.items()}
    assert grace["rollout"] > rollout.rollout.drain_timeout_s
    assert grace["teacher"] > teacher.teacher.deadline_s + LAST_WORDS_S
    assert grace["trainer"] > STOP_GRACE_S
    startup = container(templates(resources)["trainer"])["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > trainer.teacher.retry_limit_s
    limits = {name: container(template)["resources"]["limits"] for name, template in templates(resources).items()}
    if "gpu" in overlay:
        assert limits["rollout"]["nvidia.com/gpu"] == str(rollout.rollout.tensor_parallel)


@each_system
def test_ports_agree(overlay: str, rendered: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = rendered(overlay)
    services = of_kind(resources, "Service")
    for name in ("teacher", "rollout", "trainer"):
        section = getattr(settings(resources, name, tmp_path, monkeypatch), name)
        wanted = {"http": getattr(section, "http_port", section.port)}
        if name == "teacher":
            wanted["grpc"] = section.port
        about = container(templates(resources)[name])
        assert {port["name"]: port["containerPort"] for port in about["ports"]} == wanted
        assert {port["name"]: port["port"] for port in services[name]["spec"]["ports"]} == wanted
        assert services[name]["spec"]["clusterIP"] == "None"
        assert services[name]["spec"]["selector"].items() <= templates(resources)[name]["metadata"]["labels"].items()
        paths = {kind: about[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
        assert {probe["port"] for probe in paths.values()} == {"http"}
        assert {probe["scheme"] for probe in paths.values()} == {"HTTPS"}
        assert (paths["readiness"]["path"], paths["liveness"]["path"]) == ("/readyz", "/healthz")


@each_overlay
def test_pods_keep_to_the_restricted_standard(overlay: str, rendered: Render) -> None:
    for name, template in templates(rendered(overlay)).items():
        pod, about = template["spec"], container(template)
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert about["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert pod["automountServiceAccountToken"] is False
        # Variables such as XOPD_..., made by Kubernetes for a service of that name, would be refused as settings.
        assert pod["enableServiceLinks"] is False
        assert {"cpu", "memory"} <= about["resources"]["requests"].keys()
        assert "memory" in about["resources"]["limits"]


@each_overlay
def test_what_is_referred_to_is_there(overlay: str, rendered: Render) -> None:
    resources = rendered(overlay)
    there = {kind: set(of_kind(resources, kind)) for kind in ("ConfigMap", "PersistentVolumeClaim", "PriorityClass")}
    for template in templates(resources).values():
        text = yaml.safe_dump(template)
        volumes = template["spec"].get("volumes", [])
        sources = [source for each in volumes for source in each.get("projected", {}).get("sources", [])]
        configs = {each["configMap"]["name"] for each in [*volumes, *sources] if "configMap" in each}
        assert configs <= there["ConfigMap"]
        claims = {each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each}
        assert claims <= there["PersistentVolumeClaim"]
        assert {template["spec"].get("priorityClassName")} - {None} <= there["PriorityClass"]
        assert {
            (name, key) for key, name in re.findall(r"secretKeyRef:\s+key: (\S+)\s+name: (\S+)", text)
        } <= MADE_BY_HAND
        secrets = {each["secret"]["secretName"] for each in volumes if "secret" in each}
        assert secrets <= {each["spec"]["secretName"] for each in of_kind(resources, "Certificate").values()}
        mounts = {mount["name"] for mount in container(template).get("volumeMounts", [])}
        stated = {each["name"] for each in volumes}
        assert mounts - {"data"} == stated - {"data"}  # Redis's claim is a template


@each_system
def test_every_service_asks_for_a_token_and_speaks_tls(
    overlay: str, rendered: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As each service decides it at its start; and the certificates name what callers call."""
    resources = rendered(overlay)
    certificates = {each["spec"]["secretName"]: each["spec"] for each in of_kind(resources, "Certificate").values()}
    for name in ("teacher", "rollout", "trainer"):
        config = settings(resources, name, tmp_path, monkeypatch)
        assert config.security.mutual_tls and not config.security.insecure
        refuse_insecure_address(config, f"{name}.host", getattr(config, name).host)
        refuse_insecure_calls(config)
        refuse_insecure_redis(config)
        pod = templates(resources)[name]
        (mount,) = (each for each in container(pod)["volumeMounts"] if each["name"] == "tls")
        (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "tls")
        assert {Path(str(path)).parent for path in (config.security.tls_cert, config.security.tls_ca)} == {
            Path(mount["mountPath"])
        }
        issued = certificates[volume["secret"]["secretName"]]
        assert name in issued["dnsNames"]
        assert {"server auth", "client auth"} <= set(issued["usages"])
    assert {text.rpartition(":")[0] for text in config.teacher.endpoints} <= set(
        certificates["teacher-tls"]["dnsNames"]
    )
    assert "redis" in certificates["redis-tls"]["dnsNames"]


@each_system
def test_redis_speaks_tls_alone_and_its_password_is_no_argument(overlay: str, rendered: Render, tmp_path: Path) -> None:
    about = container(templates(rendered(overlay))["redis"])
    words = about["args"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert (options["--port"], options["--tls-port"]) == ("0", "6379")
    assert "tls-auth-clients" not in str(words)  # on, unless it is turned off
    # Stands for redis-server: says what it was given, and what it read.
    (tmp_path / "redis-server").write_text('#!/bin/sh\necho "$@" > arguments; cat > input\n')
    (tmp_path / "redis-server").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "REDISCLI_AUTH": "a secret"}
    subprocess.run([*about["command"], *words], env=environment, cwd=tmp_path, check=True, timeout=20)
    assert (tmp_path / "input").read_text() == 'requirepass "a secret"\n'
    assert (tmp_path / "arguments").read_text().split() == " ".join(["-", *words[1:]]).split()


def test_prometheus_scrapes_over_tls_what_it_scrapes_in_clear(rendered: Render) -> None:
    folder = ROOT / "deploy" / "prometheus"
    plain, tls = (yaml.safe_load((folder / name).read_text()) for name in ("prometheus.yml", "prometheus-tls.yml"))
    for job in tls["scrape_configs"]:
        name = job["job_name"].removeprefix("xopd-")
        if name != "prometheus":
            assert job.pop("scheme") == "https"
            assert job.pop("tls_config") == {"ca_file": "ca/ca.crt", "server_name": name}
    assert plain == tls
    config_maps = of_kind(rendered("observability"), "ConfigMap")
    (shipped,) = (each for name, each in config_maps.items() if name.startswith("prometheus-config"))
    assert shipped["data"]["prometheus.yml"] == (folder / "prometheus-tls.yml").read_text()
    sources = templates(rendered("observability"))["prometheus"]["spec"]["volumes"][0]["projected"]["sources"]
    (secret,) = (each["secret"] for each in sources if "secret" in each)
    assert secret["items"] == [{"key": "ca.crt", "path": "ca/ca.crt"}]
    assert secret["name"] in {
        each["spec"]["secretName"] for each in of_kind(rendered("tiny-cpu"), "Certificate").values()
    }


def edges(resources: list[Resource]) -> Iterator[tuple[str, str, int]]:
    """(from, to, port) between the namespace's pods, where both sides' policies allow it."""
    policies = [each["spec"] for each in of_kind(resources, "NetworkPolicy").values()]
    pods = {template["metadata"]["labels"][NAME] for template in templates(resources).values()}

    def _names(selector: Resource | None) -> set[str]:
        if selector is None:
            return set()
        names = set(pods)
        if NAME in selector.get("matchLabels", {}):
            names &= {selector["matchLabels"][NAME]}
        for expression in selector.get("matchExpressions", ()):
            names &= set(expression["values"])
        return names

    def _allowed(direction: str, side: str) -> set[tuple[str, str, int]]:
        return {
            (own, peer, port["port"])
            for spec in policies
            for rule in spec.get(direction, ())
            for each in rule[side]
            for port in rule["ports"]
            for own in _names(spec["podSelector"])
            for peer in _names(each.get("podSelector"))
        }

    into = {(peer, own, port) for own, peer, port in _allowed("ingress", "from")}
    yield from into & _allowed("egress", "to")


def test_only_the_edges_of_the_data_flow_are_open(rendered: Render) -> None:
    resources = [*rendered("tiny-cpu"), *rendered("observability")]
    deny = of_kind(resources, "NetworkPolicy")["default-deny"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert set(edges(resources)) == {
        ("trainer", "redis", 6379),
        ("rollout", "redis", 6379),
        ("trainer", "teacher", 50051),
        ("prometheus", "trainer", 8080),
        ("prometheus", "rollout", 8080),
        ("prometheus", "teacher", 8080),
        ("grafana", "prometheus", 9090),
    }


def test_traces_are_sent_where_the_policies_let_them(
    rendered: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = rendered("tiny-cpu-traces")
    rule = of_kind(resources, "NetworkPolicy")["traces"]["spec"]
    (way,) = rule["egress"]
    (namespace,) = way["to"][0]["namespaceSelector"]["matchLabels"].values()
    for name in ("trainer", "rollout", "teacher"):
        assert settings(rendered("tiny-cpu"), name, tmp_path, monkeypatch).tracing.endpoint == ""
        url = urlsplit(settings(resources, name, tmp_path, monkeypatch).tracing.endpoint)
        assert str(url.hostname).split(".")[1] == namespace
        assert url.port == way["ports"][0]["port"]
        assert name in rule["podSelector"]["matchExpressions"][0]["values"]


@pytest.mark.parametrize("overlay", ["autoscale-keda", "autoscale-hpa"])
def test_autoscalers_scale_what_there_is_by_series_that_exist(overlay: str, rendered: Render) -> None:
    scalers = of_kind(rendered(overlay), "ScaledObject", "HorizontalPodAutoscaler")
    assert set(scalers) == {"rollout", "teacher"}
    services = of_kind([*rendered("tiny-cpu"), *rendered("observability")], "Service")
    known = exported_names() | {"up"}
    for name, scaler in scalers.items():
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", name)
        assert name in of_kind(rendered("tiny-cpu"), "Deployment")
        for trigger in scaler["spec"].get("triggers", ()):
            about = trigger["metadata"]
            host, port = re.fullmatch(r"http://(\w+)\.xopd\.svc:(\d+)", about["serverAddress"]).groups()  # type: ignore[union-attr]
            assert int(port) in {each["port"] for each in services[host]["spec"]["ports"]}
            assert set(re.findall(r"xopd_\w+|\bup\b", about["query"])) <= known
    if overlay == "autoscale-keda":
        assert all(scaler["spec"]["minReplicaCount"] == 0 for scaler in scalers.values())


def test_disruption_budgets_cover_every_service(rendered: Render) -> None:
    resources = rendered("tiny-cpu")
    budgets = of_kind(resources, "PodDisruptionBudget")
    assert set(budgets) == {"teacher", "rollout", "trainer"}
    for name, budget in budgets.items():
        assert budget["spec"]["selector"]["matchLabels"] == {NAME: name}


def test_a_stopped_trainer_is_no_finished_job(rendered: Render) -> None:
    """What the trainer ends with on SIGTERM is ignored by the Job, which then makes another pod: it resumes."""
    job = of_kind(rendered("tiny-cpu"), "Job")["trainer"]["spec"]
    about = container(job["template"])
    assert "command" not in about  # the image's own, as the compose file runs it
    assert about["args"] == ["--config", "/etc/xopd/config.yaml", "--resume"]
    ignored = [rule["onExitCodes"]["values"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert ignored == [[128 + signal.SIGTERM]]
    assert set(ignored[0]) <= STOPPED_STATUSES


def test_the_jobset_runs_the_jobs_pod(rendered: Render) -> None:
    job = templates(rendered("qwen3-omni-gpu"))["trainer"]
    assert templates(rendered("qwen3-omni-gpu-jobset"))["trainer"]["spec"] == job["spec"]
    assert not of_kind(rendered("qwen3-omni-gpu-jobset"), "Job")


def test_the_overlay_of_an_unsupported_family_says_so() -> None:
    text = (ROOT / "deploy" / "k8s" / "overlays" / "qwen3-omni-gpu" / "kustomization.yaml").read_text()
    assert ("A TEMPLATE" in text) == (not any(family.startswith("qwen3_omni") for family in FAMILIES))
