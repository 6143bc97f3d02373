"""Groups of responses as the learner gets them, with invented scores, and one table of the methods under test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from torch import Tensor
from xopd_trainer.batch import ScoredGroup, ScoredTrajectory
from xopd_trainer.learning.learner import Learner
from xopd_trainer.learning.optimiser import optimiser_tensors
from xopd_trainer.methods import make_method

from xopd.config import Config
from xopd.config.objective import ObjectiveSettings
from xopd.data.features import FeatureCache
from xopd.families import ModelFamily
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import TokenScores

MODALITIES = (pb.MODALITY_TEXT, pb.MODALITY_SPEECH)
ALL_TOKENS = 10**6
"""A top-k that is cut to the vocabulary less one."""
SUPERVISED: dict[str, Any] = {"sampled": False, "scores": False, "n": 1}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "xopd": ({}, {}),
    "xopd, limits": ({"advantage_clamp": 2.0, "ratio_truncation": (0.05, 3.0), "aggregation": "token_mean"}, {}),
    "xopd, ratio mask": ({"ratio_mask": (0.05, 3.0)}, {}),
    "xopd, top_k": ({"kl_estimator": "top_k", "top_k": 5}, {"top_k": 5}),
    "xopd, full": ({"kl_estimator": "full", "aggregation": "token_mean"}, {"top_k": ALL_TOKENS}),
    "gkd": ({"method": "gkd", "top_k": 5}, {"top_k": 5}),
    "gkd, mixed": (
        {"method": "gkd", "top_k": 5, "beta": 0.5, "on_policy_share": 0.5, "aggregation": "token_mean"},
        {"top_k": 5, "mixed": True},
    ),
    "sft": ({"method": "sft"}, SUPERVISED),
    "offline_kd": ({"method": "offline_kd", "aggregation": "token_mean"}, SUPERVISED),
}
"""By name: the objective's settings, and the options of the groups that such a run trains on."""


def with_objective(config: Config, objective: dict[str, Any], **sections: dict[str, Any]) -> Config:
    """`config` with this objective, checked, and with some settings of other sections changed."""
    changed = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    return config.model_copy(update={"objective": TypeAdapter(ObjectiveSettings).validate_python(objective), **changed})


def make_learner(config: Config, family: ModelFamily, features: FeatureCache) -> Learner:
    """A learner of the configured method, which needs no preparation."""
    return Learner(config, family, features, make_method(config, family.vocabulary.size))


def trained_state(learner: Learner) -> dict[str, Tensor]:
    """A copy of the trained tensors by hub name."""
    return {name: tensor.clone() for name, tensor in learner.named_tensors()}


def optimiser_state(learner: Learner) -> dict[str, Tensor]:
    """A copy of Adam's state as it is checkpointed."""
    masters = learner.masters
    tensors = optimiser_tensors(learner.optimiser, learner.family, masters.weights, masters.separate)
    return {name: tensor.clone() for name, tensor in tensors}


def scored(logprobs: np.ndarray, top_k: int = 0, seed: int = 0, vocabulary: int = 200) -> TokenScores:
    """What a teacher would have said: `logprobs` of the tokens, and random top-k tokens with a tail."""
    rng = np.random.default_rng(seed)
    tokens = len(logprobs)
    if top_k == 0:
        shape = (tokens, 0)
        return TokenScores(logprobs, np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(0, np.float32))
    ids = np.stack([rng.permutation(vocabulary)[:top_k] for _ in range(tokens)]).astype(np.int32)
    logits = np.sort(rng.normal(0, 2, (tokens, top_k + 1)))[:, ::-1]
    buckets = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return TokenScores(logprobs, ids, buckets[:, :-1].astype(np.float32), buckets[:, -1].astype(np.float32))


def make_group(
    family: ModelFamily,
    modality: pb.Modality,
    clip: tuple[str, str] | None,
    seed: int,
    n: int = 3,
    top_k: int = 0,
    sampled: bool = True,
    scores: bool = True,
) -> ScoredGroup:
    """N random responses to a text question, or to `clip` (uri, sha256); the second one cut at the length limit."""
    rng = np.random.default_rng(seed)
    text = family.render_text(f"question {seed}")
    prompt = family.render_speech("") if modality == pb.MODALITY_SPEECH else text
    k = min(top_k, family.vocabulary.size - 1)
    rows = []
    for index in range(n):
        length = int(rng.integers(1, 7))
        behaviour, teacher = (-rng.exponential(3.0, length).astype(np.float32) for _ in range(2))
        rows.append(
            ScoredTrajectory(
                token_ids=rng.integers(0, 200, length),
                behaviour_logprobs=behaviour if sampled else None,
                teacher=scored(teacher, k, 100 * seed + index, family.vocabulary.size) if scores else None,
                truncated=index == 1,
                policy_lag=0,
            )
        )
    audio = clip if modality == pb.MODALITY_SPEECH else None
    return ScoredGroup(f"g{seed}-{modality}", modality, tuple(prompt), tuple(text), audio, tuple(rows))


def batch(
    family: ModelFamily, clips: list[tuple[str, str]], mixed: bool = False, **options: int | bool
) -> list[ScoredGroup]:
    """Three items in both modalities; `mixed`: the second item brings its response along."""
    by_item = [{**options, **({"sampled": False, "n": 1} if mixed and i == 1 else {})} for i in range(3)]
    return [make_group(family, m, clips[i], 10 + i, **by_item[i]) for i in range(3) for m in MODALITIES]


def backwards(groups: list[ScoredGroup]) -> list[ScoredGroup]:
    """The same groups and responses in the opposite order."""
    return [replace(group, trajectories=group.trajectories[::-1]) for group in groups[::-1]]
