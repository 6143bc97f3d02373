"""Check what is deployed without deploying it: Dockerfiles, compose, Kubernetes overlays, Prometheus's files.

`make lint-deploy` runs this from the repository's root. What a machine has no program for is left out by name; all
parts run, and the exit status says whether one failed.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from crd_models import MODELS
from pydantic import ValidationError

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
LOOSE = (K8S / "secret.example.yaml", K8S / "loader.yaml", K8S / "overlays" / "observability" / "pod-monitors.yaml")
"""Manifests that are part of no overlay."""
KUBERNETES = "1.37.0"
Resource = dict[str, Any]


class LeftOutError(Exception):
    """A check that cannot be made here; the text says what it needs."""


def beside_python(program: str) -> str | None:
    """A program of this Python's environment, else of PATH."""
    return shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def kustomize_command() -> list[str] | None:
    """What renders an overlay: kustomize itself, or the one inside kubectl."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


def render(overlay: str) -> list[Resource]:
    """The overlay's resources.

    Raises:
        LeftOutError: without kustomize.
        ValueError: with kustomize's own words.
    """
    command = kustomize_command()
    if command is None:
        raise LeftOutError("needs kustomize or kubectl")
    # observability takes files of deploy/prometheus and deploy/grafana; the others must do without.
    options = ["--load-restrictor", "LoadRestrictionsNone"] if overlay == "observability" else []
    status, output = run([*command, *options, str(K8S / "overlays" / overlay)])
    if status:
        raise ValueError(output)
    return load(output)


def load(text: str) -> list[Resource]:
    """The documents of a YAML text."""
    return [document for document in yaml.safe_load_all(text) if document]


def problems(resources: Sequence[Resource]) -> list[str]:
    """What the schemas have against these resources, unknown fields included."""
    return [f"{each['kind']} {each['metadata']['name']}: {text}" for each in resources for text in _problems(each)]


def _problems(resource: Resource) -> list[str]:
    if resource["kind"] not in MODELS:
        return _against_kubernetes(resource)
    try:
        MODELS[resource["kind"]].model_validate(resource)
    except ValidationError as error:
        return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    found = []
    for job in resource["spec"].get("replicatedJobs", ()):
        inner = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
        found += _against_kubernetes(inner)
    return found


def _against_kubernetes(resource: Resource) -> list[str]:
    schemas = importlib.import_module("kubernetes_validate")
    try:
        schemas.validate(resource, KUBERNETES, strict=True)
    except schemas.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    except (schemas.SchemaNotFoundError, schemas.InvalidSchemaError) as error:
        return [f"has no schema ({error})"]
    return []


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit status and output of a command; `env` None inherits."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=env)  # noqa: S603
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def lint_dockerfiles() -> list[str]:
    """Findings of hadolint."""
    program = beside_python("hadolint")
    if program is None:
        raise LeftOutError("needs hadolint")
    return _failed([program, *sorted(map(str, (ROOT / "services").glob("*/Dockerfile")))])


def lint_compose() -> list[str]:
    """What compose itself has against docker-compose.yml, with every profile, without and with TLS."""
    program = beside_python("docker-compose")
    if program is None:
        raise LeftOutError("needs docker-compose 2")
    passwords = dict.fromkeys(("REDIS_PASSWORD", "SERVICE_TOKEN", "GRAFANA_PASSWORD"), "secret")
    plain, tls = str(ROOT / "docker-compose.yml"), str(ROOT / "deploy" / "compose-tls.yml")
    found = []
    for files in (["-f", plain], ["-f", plain, "-f", tls]):
        found += _failed([program, "--profile", "*", *files, "config", "-q"], os.environ | passwords)
    return found


def lint_overlay(overlay: str) -> Callable[[], list[str]]:
    """A check of one overlay."""
    return lambda: problems(render(overlay))


def lint_loose() -> list[str]:
    """Manifests outside of the overlays."""
    return [text for path in LOOSE for text in problems(load(path.read_text()))]


def lint_prometheus() -> list[str]:
    """Findings of promtool in deploy/prometheus."""
    folder = ROOT / "deploy" / "prometheus"
    if not (folder / "prometheus.yml").exists():
        raise LeftOutError("deploy/prometheus is not there")
    if shutil.which("promtool") is None:
        raise LeftOutError("needs promtool")
    return [
        *_failed(["promtool", "check", "config", *sorted(map(str, folder.glob("prometheus*.yml")))]),
        *_failed(["promtool", "check", "rules", *sorted(map(str, (folder / "rules").glob("*.yml")))]),
    ]


def _failed(command: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
    status, output = run(command, env)
    return output.splitlines() or [f"{command[0]} ended with status {status}"] if status else []


def main() -> int:
    """Run every part; returns the exit status."""
    parts: dict[str, Callable[[], list[str]]] = {"hadolint": lint_dockerfiles, "compose": lint_compose}
    parts |= {f"overlay {overlay}": lint_overlay(overlay) for overlay in OVERLAYS}
    parts |= {"manifests of no overlay": lint_loose, "promtool": lint_prometheus}
    failed = False
    for name, part in parts.items():
        try:
            found = part()
        except LeftOutError as why:
            print(f"left out {name}: {why}")  # noqa: T201
            continue
        except ValueError as error:
            found = str(error).splitlines()
        failed |= bool(found)
        print(f"{'FAILED ' if found else 'ok     '} {name}", *found, sep="\n        ")  # noqa: T201
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
