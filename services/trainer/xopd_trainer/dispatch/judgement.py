"""Is an answer the one that is waited for? One pure function; the collector acts on what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from xopd.v1 import trajectory_pb2 as pb

Outcome = Literal["accepted", "other_life", "duplicate", "failed", "mismatched", "stale"]


@dataclass(frozen=True)
class Judgement:
    """What an answer is.

    accepted: it can be trained on. other_life: an earlier life of the trainer asked for it. duplicate: its group has
    been answered. failed: the pod says that it could not answer. mismatched: it is not what was asked for. stale: it
    was sampled from a policy version that was not asked for.
    """

    outcome: Outcome
    reason: str = ""
    """A clause for a person; empty where the answer is accepted."""


ACCEPTED = Judgement("accepted")


def judge(answer: pb.TrajectoryGroup, wanted: pb.PromptGroup | None, run_id: str, vocabulary_size: int) -> Judgement:
    """Hold an answer against what was asked.

    Args:
        answer: as it was decoded: each trajectory has at least one token, and as many log-probabilities and versions.
        wanted: the group as it was dispatched; None where nobody waits for it any more.
        run_id: of this life of the trainer.
        vocabulary_size: rows of the student's head; token ids lie below it.
    """
    if answer.run_id != run_id:
        return Judgement("other_life", "it answers another life of the trainer")
    if wanted is None:
        return Judgement("duplicate", "the group has been answered")
    if answer.HasField("failure"):
        return Judgement("failed", f"{answer.failure.reason} (pod {answer.pod_id})")
    if (fault := _mismatch(answer, wanted, vocabulary_size)) is not None:
        return Judgement("mismatched", f"{fault} (pod {answer.pod_id})")
    if (fault := _staleness(answer, wanted)) is not None:
        return Judgement("stale", f"{fault} (pod {answer.pod_id})")
    return ACCEPTED


def _mismatch(answer: pb.TrajectoryGroup, wanted: pb.PromptGroup, vocabulary_size: int) -> str | None:
    """What of an answer cannot be an answer to `wanted`, as a clause."""
    for name in ("item_id", "modality", "purpose", "step"):
        if getattr(answer, name) != getattr(wanted, name):
            return f"its {name} is {getattr(answer, name)}, {getattr(wanted, name)} was asked"
    if [t.seed for t in answer.trajectories] != list(wanted.seeds):
        return f"{len(answer.trajectories)} trajectories came for {len(wanted.seeds)} seeds"
    for trajectory in answer.trajectories:
        tokens = np.asarray(trajectory.token_ids)
        if len(tokens) > wanted.sampling.max_new_tokens:
            return f"{len(tokens)} tokens came, {wanted.sampling.max_new_tokens} were allowed"
        if tokens.max() >= vocabulary_size:
            return f"token id {tokens.max()} lies outside the vocabulary of {vocabulary_size}"
    return None


def _staleness(answer: pb.TrajectoryGroup, wanted: pb.PromptGroup) -> str | None:
    """Which policy version an answer was wrongly sampled from, as a clause."""
    for trajectory in answer.trajectories:
        versions = np.asarray(trajectory.policy_versions)
        oldest, newest = int(versions.min()), int(versions.max())
        if oldest < wanted.min_policy_version or newest > wanted.max_policy_version:
            return (
                f"sampled from policy version {oldest}, wanted {wanted.min_policy_version} to"
                f" {wanted.max_policy_version}"
            )
    return None
