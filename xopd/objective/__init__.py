"""The maths of X-OPD on tensors. Knows nothing of Redis, gRPC or vLLM."""

from xopd.objective.logprobs import entropy, token_logprobs
from xopd.objective.xopd import (
    ModalityTerms,
    advantages,
    combine_modalities,
    importance_ratio,
    modality_loss,
)

__all__ = [
    "ModalityTerms",
    "advantages",
    "combine_modalities",
    "entropy",
    "importance_ratio",
    "modality_loss",
    "token_logprobs",
]
