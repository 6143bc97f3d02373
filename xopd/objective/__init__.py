"""The maths of X-OPD and of its baselines on tensors. Knows nothing of Redis, gRPC or vLLM."""

from xopd.objective.aggregation import Aggregation, Totals, mean_over_tokens
from xopd.objective.distributions import (
    TeacherTop,
    generalised_jsd,
    kl_divergence,
    policy_buckets,
    top_k_overlap,
)
from xopd.objective.logprobs import entropy, token_logprobs
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
    "ModalityTerms",
    "TeacherTop",
    "Totals",
    "advantages",
    "combine_modalities",
    "entropy",
    "expected_modality_loss",
    "generalised_jsd",
    "importance_ratio",
    "kl_divergence",
    "mean_over_tokens",
    "modality_loss",
    "policy_buckets",
    "token_logprobs",
    "top_k_overlap",
]
