"""On which machine figures were measured."""

from __future__ import annotations

import os
import platform
from typing import Any

import psutil


def describe_machine() -> dict[str, Any]:
    """CPUs that this process may use, memory (GiB) and platform, as summaries hold them."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "platform": platform.platform(),
    }
