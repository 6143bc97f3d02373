"""The logged signals against plain computations, and that measuring changes nothing."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from xopd_trainer.learning.signals import gap_groups, repetition

from tests.unit.objective import references
from tests.unit.trainer.groups import (
    ALL_TOKENS,
    CASES,
    MODALITIES,
    batch,
    make_group,
    make_learner,
    optimiser_state,
    trained_state,
    with_objective,
)
from tests.unit.trainer.naive import PlainStudent
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import MODALITY_NAMES

OVERLAP = 3


def setting(config, objective, **trainer):
    return with_objective(config, objective, trainer={"overlap_top_k": OVERLAP, **trainer})


@torch.no_grad()
def naive_signals(student, groups):
    """The summary of sampled, scored groups of one modality, token by token; limits and gap left out."""
    tokens = []
    for group in groups:
        for row in group.trajectories:
            logprobs = torch.log_softmax(student.logits(group, row), -1).double().numpy()
            for t, y in enumerate(row.token_ids):
                ours, theirs = logprobs[t], float(row.teacher.logprobs[t])
                best = set(np.argsort(-ours)[:OVERLAP].tolist()) & set(row.teacher.top_token_ids[t, :OVERLAP].tolist())
                tokens.append(
                    (
                        theirs - ours[y],
                        np.exp(ours[y] - float(row.behaviour_logprobs[t])),
                        -(np.exp(ours) * ours).sum(),
                        np.exp(theirs),
                        len(best) / OVERLAP,
                    )
                )
    advantage, ratio, entropy, mass, overlap = np.array(tokens).T
    rows = [row for group in groups for row in group.trajectories]
    return {
        "advantage": {
            "mean": advantage.mean(),
            "std": advantage.std(),
            **{f"p{q}": np.percentile(advantage, q) for q in (5, 50, 95)},
        },
        "kl": -advantage.mean(),
        "ratio": {"mean": ratio.mean(), "std": ratio.std(), "max": ratio.max()},
        "entropy": entropy.mean(),
        "teacher_mass": mass.mean(),
        "top_k_overlap": overlap.mean(),
        "length": np.mean([len(row.token_ids) for row in rows]),
        "truncated": np.mean([row.truncated for row in rows]),
        "repetition": np.mean([repetition(row.token_ids) for row in rows]),
        "tokens": len(tokens),
    }


@torch.no_grad()
def naive_gap(student, groups):
    """KL(π_θ(·|x_s) ‖ π_θ(·|x_t)) of the same tokens, mean over tokens."""
    values = []
    for group in groups:
        for row in group.trajectories:
            speech, text = (torch.log_softmax(student.logits(group, row, given).double(), -1) for given in (0, 1))
            values += (speech.exp() * (speech - text)).sum(-1).tolist()
    return sum(values) / len(values)


@pytest.mark.parametrize("size", [1, 16])
def test_a_summary_is_what_plain_transformers_gives(config, family, features, clips, checkpoints, size):
    groups = batch(family, clips, top_k=60)
    student = PlainStudent(checkpoints[0], family)
    learner = make_learner(setting(config, {"advantage_clamp": 2.0}, micro_batch_groups=size), family, features)
    measured = learner.measure(groups)
    stepped = learner.step(1, groups).signals
    for modality in MODALITIES:
        name = MODALITY_NAMES[modality]
        expected = naive_signals(student, [g for g in groups if g.modality == modality])
        assert expected["top_k_overlap"] > 0
        advantages = stepped[name].advantage_values()
        shares = {"measure": None, "step": float((np.abs(advantages) > 2.0).mean())}
        for source, signals in (("measure", measured), ("step", stepped)):
            found = signals[name].summary()
            found.pop("modality_gap")
            assert found.pop("nll") is None
            assert found["ratio"].pop("clipped_share") == pytest.approx(shares[source])
            for nested in ("advantage", "ratio"):
                assert found.pop(nested) == pytest.approx(expected[nested], rel=1e-4, abs=1e-5)
            rest = {key: value for key, value in expected.items() if key not in ("advantage", "ratio")}
            assert found == pytest.approx(rest, rel=1e-4, abs=1e-5)


@torch.no_grad()
def naive_clipped_share(student, groups, clamp):
    """Σ_v π_θ(v) over the teacher's tokens and one bucket for the rest where |A(v)| > clamp, in Python floats; mean."""
    shares = []
    for group in groups:
        for row in group.trajectories:
            logits = student.logits(group, row).double().tolist()
            for t in range(len(row.token_ids)):
                named = row.teacher.top_token_ids[t].tolist()
                theirs = [*row.teacher.top_logprobs[t].tolist(), float(row.teacher.tail_logprobs[t])]
                ours = references.buckets(references.softmax(logits[t]), named)
                shares.append(references.clamped_mass(ours, [math.exp(x) for x in theirs], clamp))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("size", [1, 2, 16])
@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean"])
@pytest.mark.parametrize(("estimator", "top_k", "clamp"), [("top_k", 5, 5.0), ("full", ALL_TOKENS, 1.0)])
def test_the_clipped_share_is_that_of_the_loss_in_use(
    config, family, features, clips, checkpoints, estimator, top_k, clamp, aggregation, size
):
    """Not that of the sampled tokens, which an expectation does not use."""
    groups, student = batch(family, clips, top_k=top_k), PlainStudent(checkpoints[0], family)
    objective = {"kl_estimator": estimator, "top_k": 5, "advantage_clamp": clamp, "aggregation": aggregation}
    learner = make_learner(setting(config, objective, micro_batch_groups=size), family, features)
    for name, collector in learner.step(1, groups).signals.items():
        of_modality = [group for group in groups if MODALITY_NAMES[group.modality] == name]
        expected = naive_clipped_share(student, of_modality, clamp)
        sampled = float((np.abs(collector.advantage_values()) > clamp).mean())
        assert 0.02 < expected < 0.98 and abs(expected - sampled) > 1e-3
        assert collector.summary()["ratio"]["clipped_share"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("objective", "top_k", "share"),
    [
        ({}, 5, 0.0),
        ({"kl_estimator": "top_k", "top_k": 5}, 5, 0.0),
        ({"kl_estimator": "full"}, ALL_TOKENS, 0.0),
        ({"kl_estimator": "full", "advantage_clamp": 1e-9}, ALL_TOKENS, 1.0),
        ({"advantage_clamp": 1e-9}, 5, 1.0),
        ({"method": "gkd", "top_k": 5}, 5, None),
    ],
)
def test_the_clipped_share_of_a_loss_without_limits_and_of_one_that_clamps_all(
    config, family, features, clips, objective, top_k, share
):
    learner = make_learner(setting(config, objective), family, features)
    for collector in learner.step(1, batch(family, clips, top_k=top_k)).signals.values():
        found = collector.summary()["ratio"]["clipped_share"]
        assert found == (share if share is None else pytest.approx(share, abs=1e-6))


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_counted_at_the_stages_that_they_went_through(config, family, features, clips, case):
    objective, options = CASES[case]
    groups = batch(family, clips, **options)
    rows = [row for group in groups for row in group.trajectories]
    sampled = sum(len(row.token_ids) for row in rows if row.behaviour_logprobs is not None)
    every = sum(len(row.token_ids) for row in rows)
    supervised = objective.get("method") in ("sft", "offline_kd")
    assert sampled == 0 if supervised else sampled > 0
    tokens = make_learner(setting(config, objective), family, features).step(1, groups).tokens
    assert tokens == {"rollout": sampled, "teacher": 0 if supervised else every, "trainer": every}


@pytest.mark.parametrize(("named", "shown"), [(2, False), (3, True), (5, True)])
def test_the_overlap_is_over_the_k_of_the_setting_or_not_there(config, family, features, clips, named, shown):
    learner = make_learner(setting(config, {}), family, features)
    for collector in learner.measure(batch(family, clips, top_k=named)).values():
        assert (collector.summary()["top_k_overlap"] is not None) == shown


@pytest.mark.parametrize(("compared", "size"), [(1, 16), (2, 16), (2, 1), (9, 2)])
def test_the_modality_gap_is_the_kl_between_the_two_conditionings(
    config, family, features, clips, checkpoints, compared, size
):
    groups = batch(family, clips)
    learner = make_learner(setting(config, {}, gap_groups=compared, micro_batch_groups=size), family, features)
    signals = learner.measure(groups)
    spoken = sorted((g for g in groups if g.modality == pb.MODALITY_SPEECH), key=lambda g: g.group_id)
    expected = naive_gap(PlainStudent(checkpoints[0], family), spoken[:compared])
    assert expected > 0.01
    assert signals["speech"].summary()["modality_gap"] == pytest.approx(expected, rel=1e-4)
    assert signals["text"].summary()["modality_gap"] is None


def test_the_groups_of_the_gap_are_those_of_the_whole_batch(family, clips):
    groups = batch(family, clips)
    spoken = sorted(g.group_id for g in groups if g.modality == pb.MODALITY_SPEECH)
    assert len(spoken) == 3
    for order in (groups, groups[::-1], sorted(groups, key=lambda g: g.group_id[::-1])):
        assert [gap_groups(order, count) for count in (0, 1, 2, 9)] == [
            frozenset(spoken[:count]) for count in (0, 1, 2, 9)
        ]
    assert gap_groups([g for g in groups if g.modality == pb.MODALITY_TEXT], 9) == frozenset()


def test_the_modality_gap_is_zero_where_the_prompts_are_one(config, family, features):
    spoken = make_group(family, pb.MODALITY_SPEECH, None, 1)
    spoken = replace(spoken, prompt_token_ids=spoken.text_prompt_token_ids)
    learner = make_learner(config, family, features)
    assert learner.measure([spoken])["speech"].summary()["modality_gap"] == pytest.approx(0.0, abs=1e-9)


def test_neither_gap_nor_overlap_where_they_are_left_out(config, family, features, clips):
    learner = make_learner(setting(config, {}, gap_groups=0, overlap_top_k=0), family, features)
    summary = learner.measure(batch(family, clips, top_k=5))["speech"].summary()
    assert summary["modality_gap"] is None
    assert summary["top_k_overlap"] is None


@pytest.mark.parametrize("case", CASES)
def test_what_a_method_does_not_have_is_null_and_all_is_json(config, family, features, clips, case):
    objective, options = CASES[case]
    learner = make_learner(setting(config, objective), family, features)
    supplied, top_k = not options.get("sampled", True), options.get("top_k", 0) > 0
    for name, collector in learner.step(1, batch(family, clips, **options)).signals.items():
        summary = collector.summary()
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        for key in ("advantage", "kl", "ratio", "teacher_mass"):
            assert (summary[key] is None) == supplied, key
        assert (summary["nll"] is not None) == (supplied or "mixed" in options)
        assert (summary["top_k_overlap"] is not None) == top_k
        assert (summary["modality_gap"] is not None) == (name == "speech")
        assert summary["entropy"] > 0


def test_measuring_leaves_weights_optimiser_and_gradients_alone(config, family, features, clips):
    learner = make_learner(config, family, features)
    groups = batch(family, clips, top_k=5)
    learner.step(1, groups)

    def state():
        gradients = {f"grad/{name}": p.grad.clone() for name, p in learner.trained.items()}
        return {**trained_state(learner), **optimiser_state(learner), **gradients}

    before = state()
    learner.measure(groups)
    after = state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in learner.trained.values())
    learner.step(2, groups)


@pytest.mark.parametrize(
    ("ids", "share"),
    [
        ([], 0.0),
        ([5, 5, 5], 0.0),
        ([1, 2, 3, 4], 0.0),
        ([7, 7, 7, 7, 7], 0.5),
        ([7] * 13, 0.9),
        ([1, 2, 3, 4, 1, 2, 3, 4], 0.2),
        ([1, 2, 3, 9, 1, 2, 3, 8], 0.0),
        ([1, 2, 1, 2, 1, 2, 1], 0.5),
    ],
)
def test_repetition_is_the_share_of_four_grams_seen_before(ids, share):
    for kind in (np.int32, np.int64):
        assert repetition(np.array(ids, dtype=kind)) == pytest.approx(share)


def test_repetition_is_that_of_sets_of_tuples():
    rng = np.random.default_rng(0)
    for low, high in ((0, 2), (0, 3), (2**31 - 4, 2**31 - 1), (0, 152_000)):
        for n in rng.integers(4, 600, 30):
            row = rng.integers(low, high, n, dtype=np.int32)
            ids = row.tolist()
            grams = [tuple(ids[i : i + 4]) for i in range(len(ids) - 3)]
            assert repetition(row) == 1.0 - len(set(grams)) / len(grams)
            assert row.tolist() == ids
