"""Groups of responses as the learner gets them, with invented scores."""

from __future__ import annotations

import numpy as np
from xopd_trainer.batch import ScoredGroup, ScoredTrajectory
from xopd_trainer.learner import Learner
from xopd_trainer.methods import make_method

from xopd.config import Config
from xopd.data.features import FeatureCache
from xopd.families import ModelFamily
from xopd.scoring import ScoredResponse
from xopd.v1 import trajectory_pb2 as pb


def make_learner(config: Config, family: ModelFamily, features: FeatureCache) -> Learner:
    """A learner of the configured method, which needs no preparation."""
    return Learner(config, family, features, make_method(config, family.vocabulary.size))


def scored(logprobs: np.ndarray, top_k: int = 0, seed: int = 0, vocabulary: int = 200) -> ScoredResponse:
    """What a teacher would have said: `logprobs` of the tokens, and random top-k tokens with a tail."""
    rng = np.random.default_rng(seed)
    tokens = len(logprobs)
    if top_k == 0:
        shape = (tokens, 0)
        return ScoredResponse(logprobs, np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(0, np.float32))
    ids = np.stack([rng.permutation(vocabulary)[:top_k] for _ in range(tokens)]).astype(np.int32)
    logits = np.sort(rng.normal(0, 2, (tokens, top_k + 1)))[:, ::-1]
    buckets = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return ScoredResponse(logprobs, ids, buckets[:, :-1].astype(np.float32), buckets[:, -1].astype(np.float32))


def make_group(
    family: ModelFamily,
    modality: pb.Modality,
    clip: tuple[str, str] | None,
    seed: int,
    n: int = 3,
    top_k: int = 0,
    sampled: bool = True,
) -> ScoredGroup:
    """N random responses to a text question, or to `clip` (uri, sha256)."""
    rng = np.random.default_rng(seed)
    text = family.render_text(f"question {seed}")
    prompt = family.render_speech("") if modality == pb.MODALITY_SPEECH else text
    rows = []
    for index in range(n):
        length = int(rng.integers(1, 7))
        rows.append(
            ScoredTrajectory(
                token_ids=rng.integers(0, 200, length),
                behaviour_logprobs=-rng.exponential(3.0, length).astype(np.float32) if sampled else None,
                teacher=scored(-rng.exponential(3.0, length).astype(np.float32), top_k, 100 * seed + index),
                truncated=False,
                policy_lag=0,
            )
        )
    audio = clip if modality == pb.MODALITY_SPEECH else None
    return ScoredGroup(f"g{seed}-{modality}", modality, tuple(prompt), tuple(text), audio, tuple(rows))


def batch(family: ModelFamily, clips: list[tuple[str, str]], **options: int | bool) -> list[ScoredGroup]:
    """Three items in both modalities."""
    modalities = (pb.MODALITY_TEXT, pb.MODALITY_SPEECH)
    return [make_group(family, m, clips[i], 10 + i, **options) for i in range(3) for m in modalities]
