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
from xopd.objective.readout import Head, TokenReadout, kl_between, read_tokens
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
    "Totals",
    "advantages",
    "combine_modalities",
    "entropy",
    "expected_modality_loss",
    "generalised_jsd",
    "importance_ratio",
    "kl_between",
    "kl_divergence",
    "mean_over_tokens",
    "modality_loss",
    "policy_buckets",
    "read_tokens",
    "token_logprobs",
    "top_k_overlap",
]
