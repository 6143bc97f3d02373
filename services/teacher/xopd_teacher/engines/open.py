"""Pick the engine that the configuration names."""

from __future__ import annotations

import numpy as np

from xopd.config.schema import TeacherSettings
from xopd.errors import UserError
from xopd.service.lifecycle import large_imports
from xopd_teacher.engines.base import Engine, Floats
from xopd_teacher.engines.probe import probe_logprobs


def open_engine(settings: TeacherSettings) -> tuple[Engine, Floats]:
    """Load the checkpoint into its engine, and score the probe: the engine has computed something when this returns.

    Raises:
        UserError: for a checkpoint or a setting that cannot be used.
    """
    engine = _open(settings)
    probed = probe_logprobs(engine)
    if not np.isfinite(probed).all():
        raise UserError(
            f"teacher.path {settings.path}: the model gives log-probabilities that are not finite;"
            " the checkpoint is damaged, or needs another teacher.dtype."
        )
    return engine, probed


def _open(settings: TeacherSettings) -> Engine:
    if settings.engine == "vllm":
        with large_imports():
            from xopd_teacher.engines.vllm_engine import VllmEngine

        return VllmEngine(settings)
    with large_imports():
        from xopd_teacher.engines.transformers_engine import TransformersEngine

    return TransformersEngine(settings)
