"""Which class trains by which `objective.method`."""

from __future__ import annotations

from xopd.config import Config
from xopd_trainer.methods.base import Method
from xopd_trainer.methods.gkd import Gkd
from xopd_trainer.methods.offline_kd import OfflineKd
from xopd_trainer.methods.sft import Sft
from xopd_trainer.methods.xopd import Xopd


def make_method(config: Config, vocabulary_size: int) -> Method:
    """The method of a configuration; `vocabulary_size` is the student's and the teacher's."""
    objective = config.objective
    if objective.method == "xopd":
        return Xopd(objective, vocabulary_size)
    if objective.method == "gkd":
        return Gkd(objective, config.run.seed, vocabulary_size)
    if objective.method == "sft":
        return Sft(objective)
    return OfflineKd(objective, config.run.seed, config.sampling.max_new_tokens)
