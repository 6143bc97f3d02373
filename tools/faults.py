"""`make faults`: put a local run of the tiny world through every kind of fault, and write docs/RELIABILITY.md."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from xopd.service.machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "RELIABILITY.md"
BEGIN, END = "<!-- faults: written by `make faults` -->\n", "<!-- end of faults -->"


def table(report: dict[str, Any]) -> str:
    """The report of `xopd chaos --each` as Markdown."""
    audit = report["audit"]
    lines = ["| part | what happens | going on after, s |", "| --- | --- | --: |"]
    for one in report["happened"]:
        part, what = one["fault"].split(": ", 1)
        lines.append(f"| {part} | {what} | {one['recovery_s']:.1f} |")
    again = ", ".join(f"{n} {kind}" for kind, n in audit["sent_again"].items()) or "none"
    dropped = ", ".join(f"{n} {kind}" for kind, n in audit["dropped"].items()) or "none"
    lines += [
        "",
        f"The closing audit: {audit['dispatched']:,} groups dispatched = {audit['trained']:,} trained"
        f" + {audit['dead']} dead-lettered; **{audit['lost']} lost, 0 trained twice**; {audit['undone']} taken back by"
        f" restarts and done again; sent again: {again}; answers dropped: {dropped}. {audit['steps']:,} steps in"
        f" {audit['lives']} lives of the trainer. Undisturbed, two steps take {report['quiet_s']:.1f} s.",
        "",
        f"Machine: {machine()}.",
        "",
    ]
    return "\n".join(lines)


def machine() -> str:
    """The machine in a few words."""
    return ", ".join(f"{name} {value}" for name, value in describe_machine().items())


def main() -> None:
    """Run, and rewrite the page."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "report.json"
        command = [sys.executable, "-m", "xopd", "chaos", "examples/tiny/demo.yaml", "--each", "--json", str(found)]
        done = subprocess.run(command, cwd=ROOT, check=False)  # noqa: S603 (a fixed command)
        if not found.exists():
            raise SystemExit(done.returncode or 1)
        report = json.loads(found.read_text(encoding="utf-8"))
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table(report) + END + rest.split(END, 1)[1], encoding="utf-8")
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
