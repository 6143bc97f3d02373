"""The maths of X-OPD and of its baselines on tensors. Knows nothing of Redis, gRPC or vLLM."""

from xopd.objective.aggregation import Aggregation, Totals, mean_over_tokens
from xopd.objective.distributions import (
    TeacherTop,
    generalised_jsd,
    kl_divergence,
)
from xopd.objective.readout import (
    Head,
    TokenReadout,
    TopReadout,
    kl_between,
    read_tokens,
    read_top,
    token_logprobs,
)
from xopd.objective.xopd import (
    ExpectedTerms,
    ModalityTerms,
    advantages,
    combine_modalities,
    expected_modality_loss,
    importance_ratio,
    modality_loss,
)

__all__ = [
    "Aggregation",
    "ExpectedTerms",
    "Head",
    "ModalityTerms",
    "TeacherTop",
    "TokenReadout",
    "TopReadout",
    "Totals",
    "advantages",
    "combine_modalities",
    "expected_modality_loss",
    "generalised_jsd",
    "importance_ratio",
    "kl_between",
    "kl_divergence",
    "mean_over_tokens",
    "modality_loss",
    "read_tokens",
    "read_top",
    "token_logprobs",
]
