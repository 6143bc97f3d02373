"""What an answer is: one pure function of what came and what was asked."""

from __future__ import annotations

import pytest
from xopd_trainer.dispatch.judgement import judge

from xopd.v1 import trajectory_pb2 as pb

VOCABULARY = 100


def asked() -> pb.PromptGroup:
    return pb.PromptGroup(
        run_id="run-1", group_id="g", item_id="i", modality=pb.MODALITY_SPEECH, purpose=pb.PURPOSE_TRAIN, step=5,
        seeds=[11, 12], sampling=pb.Sampling(max_new_tokens=3), min_policy_version=3, max_policy_version=4,
    )  # fmt: skip


def answered(rows=(((1, 99), (3, 4)), ((7,), (4,))), **changes) -> pb.TrajectoryGroup:
    trajectories = [
        pb.Trajectory(seed=11 + i, token_ids=tokens, policy_versions=versions)
        for i, (tokens, versions) in enumerate(rows)
    ]
    about = {
        "run_id": "run-1", "group_id": "g", "item_id": "i", "modality": pb.MODALITY_SPEECH,
        "purpose": pb.PURPOSE_TRAIN, "step": 5, "pod_id": "pod-7", "trajectories": trajectories,
    }  # fmt: skip
    return pb.TrajectoryGroup(**{**about, **changes})


def test_what_was_asked_is_accepted():
    assert judge(answered(), asked(), "run-1", VOCABULARY).outcome == "accepted"


@pytest.mark.parametrize(
    ("answer", "outcome", "reason"),
    [
        (answered(run_id="run-0"), "other_life", "it answers another life of the trainer"),
        (answered(failure=pb.Failure(reason="no clip")), "failed", "no clip (pod pod-7)"),
        (answered(item_id="j"), "mismatched", "its item_id is j, i was asked (pod pod-7)"),
        (answered(step=6), "mismatched", "its step is 6, 5 was asked (pod pod-7)"),
        (answered(rows=(((1,), (4,)),)), "mismatched", "1 trajectories came for 2 seeds (pod pod-7)"),
        (
            answered(rows=(((1, 2, 3, 4), (4,)), ((1,), (4,)))),
            "mismatched",
            "4 tokens came, 3 were allowed (pod pod-7)",
        ),
        (
            answered(rows=(((1,), (4,)), ((100, 2), (4, 4)))),
            "mismatched",
            "token id 100 lies outside the vocabulary of 100 (pod pod-7)",
        ),
        (
            answered(rows=(((1, 2), (2, 3)), ((1,), (4,)))),
            "stale",
            "sampled from policy version 2, wanted 3 to 4 (pod pod-7)",
        ),
        (
            answered(rows=(((1,), (4,)), ((1, 2), (4, 5)))),
            "stale",
            "sampled from policy version 4, wanted 3 to 4 (pod pod-7)",
        ),
    ],
)
def test_everything_else_is_told_apart(answer, outcome, reason):
    found = judge(answer, asked(), "run-1", VOCABULARY)
    assert (found.outcome, found.reason) == (outcome, reason)


def test_an_answer_that_nobody_waits_for_is_a_duplicate():
    assert judge(answered(), None, "run-1", VOCABULARY).outcome == "duplicate"
