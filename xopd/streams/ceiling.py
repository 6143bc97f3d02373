"""How much of Redis a run can take at most: the arithmetic behind its bounded memory.

The trainer has at most (policy lag + 1) steps outstanding. A prompt is removed when it is answered, a trajectory when
a checkpoint holds its step. So at any moment there are at most

    prompts:       (lag + 1) · groups of a step
    trajectories:  (lag + 1 + checkpoint_every) · groups of a step

beside evaluations, whose answers are removed as they are read. Overhead is what a stream entry costs in Redis.
"""

from __future__ import annotations

from dataclasses import dataclass

from xopd.config import Config

VARINT_BYTES = 3
"""A token id below 2,097,152 as protobuf writes it."""
TOKEN_BYTES = VARINT_BYTES + 4 + VARINT_BYTES
"""A sampled token: its id, its float32 log-probability, its policy version."""
ENVELOPE_BYTES = 1024
"""Ids, clip reference, times and trace context of one message."""
TRAJECTORY_BYTES = 32
"""Index, seed and lengths of one trajectory."""
OVERHEAD = 1.5
"""A stream's nodes are allocated whole, and pending entries are listed once more."""


@dataclass(frozen=True)
class RedisCeiling:
    """The most entries and bytes of a run's streams."""

    prompts: int
    trajectories: int
    bytes: int


def redis_ceiling(config: Config) -> RedisCeiling:
    """The ceiling for training with this configuration."""
    both = 2 if 0.0 < config.objective.lambda_ < 1.0 else 1
    groups = config.trainer.batch_prompts * both
    outstanding = config.trainer.max_policy_lag + 1
    prompts = outstanding * groups
    trajectories = (outstanding + config.run.checkpoint_every) * groups
    samples, tokens = config.objective.samples, config.sampling.max_new_tokens
    prompt_bytes = ENVELOPE_BYTES + VARINT_BYTES * config.rollout.max_model_len + 5 * samples
    group_bytes = ENVELOPE_BYTES + samples * (TRAJECTORY_BYTES + tokens * TOKEN_BYTES)
    total = OVERHEAD * (prompts * prompt_bytes + trajectories * group_bytes)
    return RedisCeiling(prompts, trajectories, int(total))
