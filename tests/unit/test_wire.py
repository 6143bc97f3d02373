"""Decoders refuse what cannot be used, by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import WireError, decode_prompt_group, decode_trajectory_group


def prompt(**changes):
    group = pb.PromptGroup(
        protocol=1, run_id="r", group_id="g", item_id="i", modality=pb.MODALITY_TEXT, purpose=pb.PURPOSE_TRAIN,
        prompt_token_ids=[1], seeds=[1], sampling=pb.Sampling(temperature=1, max_new_tokens=1),
    )  # fmt: skip
    group.MergeFrom(pb.PromptGroup(**changes))
    return group


def trajectories(**changes):
    row = {
        "token_ids": [1, 2],
        "logprobs": [-1.0, -2.0],
        "policy_versions": [0, 0],
        "finish_reason": pb.FINISH_REASON_STOP,
    }
    row.update(changes)
    return pb.TrajectoryGroup(protocol=1, run_id="r", group_id="g", trajectories=[pb.Trajectory(**row)])


def test_good_messages_come_back():
    assert decode_prompt_group(prompt().SerializeToString()) == prompt()
    assert decode_trajectory_group(trajectories().SerializeToString()) == trajectories()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"protocol": 2}, "upgrade"),
        ({"modality": pb.MODALITY_SPEECH}, "names no audio"),
        ({"prompt_token_ids": [-3]}, "negative token id"),
        ({"min_policy_version": 5}, "policy version from 5 to 0"),
    ],
)
def test_bad_prompts(changes, sentence):
    with pytest.raises(WireError, match=sentence):
        decode_prompt_group(prompt(**changes).SerializeToString())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"logprobs": [-1.0]}, "2 tokens but 1 logprobs"),
        ({"policy_versions": []}, "policy version"),
        ({"token_ids": [], "logprobs": [], "policy_versions": []}, "is empty"),
        ({"logprobs": [float("nan"), -1.0]}, "impossible logprob"),
        ({"logprobs": [0.5, -1.0]}, "impossible logprob"),
        ({"finish_reason": 0}, "why it ended"),
    ],
)
def test_bad_trajectories(changes, sentence):
    with pytest.raises(WireError, match=sentence):
        decode_trajectory_group(trajectories(**changes).SerializeToString())


@given(st.binary(max_size=200))
def test_noise_is_refused_or_valid(data):
    for decoder in (decode_prompt_group, decode_trajectory_group):
        try:
            decoder(data)
        except WireError:
            continue
