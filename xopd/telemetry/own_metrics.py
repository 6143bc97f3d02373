"""A service keeps its metrics in its own process, whatever the environment asks of prometheus_client."""

from __future__ import annotations

import os
import sys

import structlog

from xopd.telemetry.logs import PROCESSORS

SHARED_FOLDER = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
"""Variables by which prometheus_client shares values between processes, through files, as web servers need it."""


def keep_own_metrics() -> None:
    """Take those variables out of the environment, with a line in the log.

    With them the client writes every value into files of that folder: it fails where there is none, and finds the
    values of a service's earlier lives. Call it before prometheus_client is imported, which reads them then; so it
    is too early for the service's own log, and the line is written like one of it.
    """
    for name in SHARED_FOLDER:
        folder = os.environ.pop(name, None)
        if folder is not None:
            log = structlog.wrap_logger(structlog.PrintLogger(sys.stderr), processors=list(PROCESSORS))
            log.warning(f"{name} is left unused: a service keeps its metrics in one process", folder=folder)
