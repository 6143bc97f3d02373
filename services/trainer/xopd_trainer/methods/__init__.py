"""The training methods, one file each: where responses come from, what the teacher is asked, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from xopd.config import Config
from xopd.config.objective import GkdSettings, MethodSettings, OfflineKdSettings, SftSettings, XopdSettings
from xopd_trainer.methods.base import LossTerms, Method, PolicyReadout, Preparation, Response, RunFacts
from xopd_trainer.methods.gkd import Gkd
from xopd_trainer.methods.offline_kd import OfflineKd
from xopd_trainer.methods.sft import Sft
from xopd_trainer.methods.xopd import Xopd

__all__ = ["LossTerms", "Method", "PolicyReadout", "Preparation", "Response", "RunFacts", "make_method"]

# Any: each takes the settings of its own method.
METHODS: Mapping[type[MethodSettings], Callable[[Any, RunFacts], Method]] = {
    XopdSettings: Xopd,
    GkdSettings: Gkd,
    SftSettings: Sft,
    OfflineKdSettings: OfflineKd,
}
"""Which class trains by which settings."""


def make_method(config: Config, vocabulary_size: int) -> Method:
    """The method of a configuration; `vocabulary_size` is the student's and the teacher's."""
    facts = RunFacts(config.run.seed, vocabulary_size, config.sampling.max_new_tokens)
    return METHODS[type(config.objective)](config.objective, facts)
