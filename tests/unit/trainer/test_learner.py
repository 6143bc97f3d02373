"""The learner against plain transformers, and what it never changes."""

import numpy as np
import pytest
import torch
from xopd_trainer.learning.learner import FrozenPartChangedError

from tests.clips import rules
from tests.unit.trainer.groups import batch, make_group, make_learner, trained_state
from tests.unit.trainer.naive import PlainStudent
from xopd.data.features import FeatureCache
from xopd.families.tensors import hub_state
from xopd.v1 import trajectory_pb2 as pb


@pytest.mark.parametrize("modality", [pb.MODALITY_TEXT, pb.MODALITY_SPEECH])
def test_logprobs_equal_plain_transformers(config, family, features, clips, checkpoints, modality):
    learner, student = make_learner(config, family, features), PlainStudent(checkpoints[0], family)
    for seed, clip in enumerate(clips):
        group = make_group(family, modality, clip, seed)
        for ours, row in zip(learner.logprobs(group), group.trajectories, strict=True):
            with torch.no_grad():
                theirs = torch.log_softmax(student.logits(group, row), -1)
            np.testing.assert_allclose(ours, theirs[torch.arange(len(ours)), torch.as_tensor(row.token_ids)], atol=2e-5)


def test_frozen_parts_stay_and_a_change_is_noticed(config, family, features, clips):
    learner = make_learner(config, family, features)
    before = {n: t.clone() for n, t in hub_state(family, learner.policy).items()}
    learner.step(1, batch(family, clips))
    learner.assert_frozen()
    after = hub_state(family, learner.policy)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == family.is_frozen(name), name
    with torch.no_grad():
        learner.policy.model.multi_modal_projector.linear.bias[0] += 1e-7
    with pytest.raises(FrozenPartChangedError):
        learner.assert_frozen()


def test_a_loss_that_is_not_finite_changes_nothing(config, family, features):
    group = make_group(family, pb.MODALITY_TEXT, None, 1)
    group.trajectories[0].teacher.logprobs[0] = np.nan
    learner = make_learner(config, family, features)
    before = trained_state(learner)
    result = learner.step(1, [group])
    assert result.skipped
    after = trained_state(learner)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_clips_take_no_more_memory_than_allowed_and_are_read_again(encoder, clips, tmp_path):
    kept = FeatureCache(tmp_path, encoder, 16000, rules("/"))
    whole = kept.get_many(clips)
    one = max(features.nbytes for features in whole)
    small = FeatureCache(tmp_path, encoder, 16000, rules("/"), memory_gb=1.5 * one / 2**30)
    for _ in range(2):
        for clip, features in zip(clips, whole, strict=True):
            assert torch.equal(small.get(*clip), features)
            assert small.bytes_in_memory <= small.memory_bytes
    assert small.bytes_in_memory > 0
    assert small.encoded == 0
    # What is in memory does not lean on the file.
    again = FeatureCache(tmp_path, encoder, 16000, rules("/"))
    read = again.get_many(clips)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"")
    assert all(torch.equal(left, right) for left, right in zip(read, whole, strict=True))


def test_clips_are_encoded_once(config, family, encoder, clips, tmp_path):
    features = FeatureCache(tmp_path, encoder, 16000, rules("/"))
    learner = make_learner(config, family, features)
    for step in (1, 2):
        learner.step(step, batch(family, clips))
    assert features.encoded == len(clips)
