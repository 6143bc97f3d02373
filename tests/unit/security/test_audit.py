"""What the lint says of known vulnerabilities, and that it never says nothing where it could not look."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
ADVISORY = {"id": "PYSEC-2024-1", "aliases": ["CVE-2024-0001"], "fix_versions": ["2.1"]}
CLEAN = {"name": "safe", "version": "1.0", "vulns": []}
BAD = {"name": "unsafe", "version": "2.0", "vulns": [ADVISORY]}
UNKNOWN = {"name": "unknown", "skip_reason": "not on the index"}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import audit
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return audit


def run(tool: ModuleType, monkeypatch, capsys, answers, exceptions=None) -> tuple[int, str]:
    def _audit(_path):
        if isinstance(answers, Exception):
            raise answers
        return answers

    monkeypatch.setattr(tool, "audit", _audit)
    monkeypatch.setattr(tool, "EXCEPTIONS", exceptions or {})
    status = tool.main()
    return status, capsys.readouterr().out


def test_a_vulnerability_fails_the_lint(tool, monkeypatch, capsys):
    status, said = run(tool, monkeypatch, capsys, [CLEAN, BAD])
    assert status == 1
    assert "unsafe 2.0: PYSEC-2024-1, fixed in 2.1" in said


@pytest.mark.parametrize("name", ["PYSEC-2024-1", "CVE-2024-0001"])
def test_an_explained_one_does_not(tool, monkeypatch, capsys, name):
    status, said = run(tool, monkeypatch, capsys, [CLEAN, BAD], {name: "the broken function is not called"})
    assert (status, said) == (0, "audited 2 packages\n")


def test_what_could_not_be_audited_is_said_in_one_line(tool, monkeypatch, capsys):
    assert run(tool, monkeypatch, capsys, [CLEAN, UNKNOWN]) == (
        0,
        "audited 1 packages; not known to the service: unknown\n",
    )
    for answers in ([UNKNOWN], tool.NoServiceError("no route to host")):
        status, said = run(tool, monkeypatch, capsys, answers)
        assert status == 0
        assert said.startswith("left out: the vulnerability service")
        assert said.count("\n") == 1


def test_nothing_from_pip_audit_is_no_service(tool, monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("not a requirement ===\n")
    with pytest.raises(tool.NoServiceError):
        tool.audit(tmp_path / "requirements.txt")


def test_every_exception_has_a_reason(tool):
    assert all(len(reason) > 20 for reason in tool.EXCEPTIONS.values())


def test_every_set_is_audited(tool):
    files = {path.stem for path in (ROOT / "requirements").glob("*.txt")}
    union = (ROOT / "requirements" / "all-cpu.txt").read_text()
    for name in files - set(tool.SETS):
        pins = [line for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines() if "==" in line]
        assert all(f"{pin}\n" in union for pin in pins), name
