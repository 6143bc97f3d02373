"""Known vulnerabilities of the pinned packages, as pip-audit finds them: part of `make lint`.

The advisories come over the network. Where the service cannot be reached, or a mirror of the package index has none,
one line says what was not audited, and the exit status is 0: a lint that needs the network would be switched off.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SETS = ("all-cpu", "rollout-gpu", "torch-cuda", "bench")
"""What is installed somewhere; the other sets are parts of these."""
EXCEPTIONS: dict[str, str] = {}
"""Advisories that do not touch this project, each with the reason."""
SAMPLE = ("numpy", "redis", "requests")
"""Packages that every index with advisories knows."""
PATIENCE_S = 300


class NoServiceError(Exception):
    """The advisories cannot be had; the text says why."""


def audit(requirements: Path) -> list[dict[str, Any]]:
    """What pip-audit says of each package of a requirements file.

    Raises:
        NoServiceError: if it says nothing.
    """
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json"]
    command += ["--no-deps", "--disable-pip", "--timeout", "15", "--requirement", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)  # noqa: S603 (fixed words)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        raise NoServiceError(f"no answer within {PATIENCE_S} s") from None
    except (ValueError, KeyError, TypeError):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise NoServiceError(lines[-1][:200] if lines else f"pip-audit ended with status {done.returncode}") from None
    return found


def audit_pins(names: Iterable[str]) -> list[dict[str, Any]]:
    """The same for a few packages of the largest set, by name. Raises as `audit`."""
    pins = (ROOT / "requirements" / f"{SETS[0]}.txt").read_text().splitlines()
    with tempfile.TemporaryDirectory() as folder:
        some = Path(folder, "some.txt")
        some.write_text("".join(f"{pin}\n" for pin in pins if pin.split("==")[0] in names))
        return audit(some)


def judge(answers: Iterable[Mapping[str, Any]], exceptions: Mapping[str, str]) -> tuple[list[str], list[str], int]:
    """Findings, names of packages that could not be audited, and the number of those that were."""
    findings, skipped, audited = [], set(), set()
    for answer in answers:
        pin = f"{answer['name']} {answer.get('version', '')}".strip()
        if "skip_reason" in answer:
            skipped.add(answer["name"])
            continue
        audited.add(answer["name"])
        for advisory in answer["vulns"]:
            names = [advisory["id"], *advisory.get("aliases", ())]
            if not any(name in exceptions for name in names):
                fixed = ", ".join(advisory.get("fix_versions", ())) or "no version yet"
                findings.append(f"{pin}: {names[0]}, fixed in {fixed}")
    return sorted(set(findings)), sorted(skipped - audited), len(audited)


def main() -> int:
    """Audit every set; returns the exit status."""
    answers: list[dict[str, Any]] = []
    try:
        # A few first: a mirror without advisories takes as long for nothing, once for each package.
        if not judge(audit_pins(SAMPLE), {})[2]:
            raise NoServiceError(f"it knows none of {', '.join(SAMPLE)}: is it a mirror?")
        for name in SETS:
            answers += audit(ROOT / "requirements" / f"{name}.txt")
    except NoServiceError as why:
        print(f"left out: the vulnerability service gives no answer ({why})")  # noqa: T201
        return 0
    findings, skipped, audited = judge(answers, EXCEPTIONS)
    print(*findings, sep="\n", end="\n" if findings else "")  # noqa: T201
    if skipped:
        print(f"audited {audited} packages; not known to the service: {', '.join(skipped)}")  # noqa: T201
    else:
        print(f"audited {audited} packages")  # noqa: T201
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
