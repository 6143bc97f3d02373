"""Build report.html of a run."""

from __future__ import annotations

from pathlib import Path

from xopd.files import write_whole
from xopd.report.records import read_run


def build_report(run_dir: str | Path) -> Path:
    """Write RUN/report.html, one file that opens without a network, and return its path.

    Works on a run that is still going, too: the page then shows the curves so far.

    Raises:
        UserError: if `run_dir` is no run.
    """
    from xopd.report.page import page

    run = read_run(run_dir)
    path = run.folder / "report.html"
    write_whole(path, page(run))
    return path
