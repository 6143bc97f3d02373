"""Decoders refuse what cannot be used, by name, and never raise anything else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import DECODERS, SEEDS
from xopd.v1 import trajectory_pb2 as pb
from xopd.v1 import weights_pb2
from xopd.wire import (
    NewerProtocolError,
    UnusableGroupError,
    WireError,
    decode_pod_status,
    decode_prompt_group,
    decode_run_info,
    decode_trajectory_group,
    decode_weight_manifest,
    limits,
    policy_versions,
)

NAN, INF = float("nan"), float("inf")
AUDIO = pb.AudioRef(uri="/clips/a.flac", sha256="0" * 64)


def prompt(sampling=None, **changes):
    group = pb.PromptGroup(
        protocol=1, run_id="r", group_id="g", item_id="i", modality=pb.MODALITY_TEXT, purpose=pb.PURPOSE_TRAIN,
        sampling=pb.Sampling(temperature=1, max_new_tokens=1),
    )  # fmt: skip
    changes = {"prompt_token_ids": [1], "seeds": [1], **changes}
    group.MergeFrom(pb.PromptGroup(sampling=pb.Sampling(**(sampling or {})), **changes))
    return group


def spoken(**audio):
    return prompt(modality=pb.MODALITY_SPEECH, audio=pb.AudioRef(**{"uri": AUDIO.uri, "sha256": AUDIO.sha256, **audio}))


def trajectories(group=None, rows=1, **changes):
    row = {
        "token_ids": [1, 2],
        "logprobs": [-1.0, -2.0],
        "policy_versions": [0, 0],
        "finish_reason": pb.FINISH_REASON_STOP,
    }
    row.update(changes)
    return pb.TrajectoryGroup(
        **{"protocol": 1, "run_id": "r", "group_id": "g", **(group or {})},
        trajectories=[pb.Trajectory(**{"index": index, **row}) for index in range(rows)],
    )


def manifest(**changes):
    fields = {
        "protocol": 1, "run_id": "r", "version": 3, "kind": 1, "uri": "file:///w/a", "sha256": "0" * 64,
        "size_bytes": 10, "tensor_count": 1,
    }  # fmt: skip
    return weights_pb2.WeightManifest(**{**fields, **changes})


def pod(**changes):
    return weights_pb2.PodStatus(**{"protocol": 1, "pod_id": "p", **changes})


def run_info(**changes):
    return weights_pb2.RunInfo(**{"protocol": 1, "run_id": "r", **changes})


def refused(decoder, message: Message, words: str) -> WireError:
    with pytest.raises(WireError, match=words) as error:
        decoder(message.SerializeToString())
    return error.value


def test_good_messages_come_back():
    for decoder, message in (
        (decode_prompt_group, prompt()),
        (decode_prompt_group, spoken()),
        (decode_trajectory_group, trajectories(rows=3)),
        (decode_trajectory_group, pb.TrajectoryGroup(protocol=1, run_id="r", group_id="g", failure=pb.Failure(code=1))),
        (decode_weight_manifest, manifest()),
        (decode_run_info, run_info()),
        (decode_pod_status, pod()),
    ):
        assert decoder(message.SerializeToString()) == message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (prompt(modality=pb.MODALITY_SPEECH), "names no audio"),
        (prompt(audio=AUDIO), "is text but names audio"),
        (spoken(sha256="../../../secret"), "64 lower-case hexadecimal"),
        (spoken(uri="a" * (limits.MAX_URI_CHARACTERS + 1)), "characters of its URI"),
        (spoken(uri="a\nb"), "control character"),
        (prompt(prompt_token_ids=[-3]), "negative token id"),
        (prompt(prompt_token_ids=[]), "has an empty prompt"),
        (prompt(prompt_token_ids=[1] * (limits.MAX_PROMPT_TOKENS + 1)), "prompt tokens are 1,048,577"),
        (prompt(seeds=[]), "has no seeds"),
        (prompt(sampling={"max_new_tokens": -1}), "asks for no tokens"),
        (prompt(min_policy_version=5), "policy version from 5 to 0"),
        (prompt(min_policy_version=-2), "policy version from -2"),
        (prompt(seeds=[1] * (limits.MAX_RESPONSES + 1)), "responses asked for are 257"),
        (prompt(sampling={"temperature": NAN}), "negative temperature"),
        (prompt(sampling={"temperature": INF}), "temperature are inf"),
        (prompt(sampling={"max_new_tokens": limits.MAX_RESPONSE_TOKENS + 1}), "tokens asked for in a response"),
        (prompt(sampling={"max_new_tokens": 2**17}, seeds=[1] * 5), "tokens asked for in all"),
        (prompt(sampling={"stop_token_ids": [1] * 65}), "stop tokens are 65"),
        (prompt(sampling={"stop_token_ids": [-1]}), "negative stop token"),
        (prompt(attempt=-1), "attempt -1"),
        (prompt(dispatched_at=NAN), "dispatched at no time"),
        (prompt(modality=7), "unknown modality 7"),
        (prompt(purpose=7), "unknown purpose 7"),
    ],
)  # fmt: skip
def test_bad_prompts_can_be_answered(message, words):
    error = refused(decode_prompt_group, message, words)
    assert isinstance(error, UnusableGroupError)
    assert error.group.group_id == "g"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (prompt(run_id="r" * 513), "characters of the run id are 513"),
        (prompt(group_id="g\n"), "group id holds a control character"),
        (prompt(traceparent="t" * 600), "traceparent"),
        (pb.PromptGroup(protocol=1, run_id="r", group_id="g"), "needs run, group and item ids"),
        (pb.PromptGroup(run_id="r"), "names no protocol version"),
    ],
)
def test_prompts_that_name_nobody_cannot_be_answered(message, words):
    assert not isinstance(refused(decode_prompt_group, message, words), UnusableGroupError)


def test_a_prompt_that_would_name_too_much_is_refused_before_it_is_parsed():
    message = prompt(prompt_token_ids=[2**20] * (limits.MAX_PROMPT_BYTES // 3))
    assert "at most 4,194,304 are read" in str(refused(decode_prompt_group, message, "PromptGroup of"))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (trajectories(logprobs=[-1.0]), "2 tokens but 1 logprobs"),
        (trajectories(policy_versions=[]), "policy version"),
        (trajectories(token_ids=[], logprobs=[], policy_versions=[]), "is empty"),
        (trajectories(logprobs=[NAN, -1.0]), "impossible logprob"),
        (trajectories(logprobs=[-INF, -1.0]), "impossible logprob"),
        (trajectories(logprobs=[0.5, -1.0]), "impossible logprob"),
        (trajectories(token_ids=[1, -1]), "negative token id"),
        (trajectories(finish_reason=0), "why it ended"),
        (trajectories(index=1), "calls itself 1"),
        (trajectories(rows=limits.MAX_RESPONSES + 1), "trajectories are 257"),
        (trajectories(group={"started_at": NAN}), "at no time"),
        (trajectories(group={"finished_at": INF}), "at no time"),
        (trajectories(group={"failure": pb.Failure(code=1)}), "trajectories and a failure"),
        (trajectories(rows=0), "neither trajectories nor a failure"),
        (trajectories(rows=0, group={"failure": pb.Failure(reason="x" * 2001)}), "characters of its reason"),
        (trajectories(group={"pod_id": "p\0"}), "pod id holds a control"),
        (trajectories(group={"run_id": ""}), "needs run and group ids"),
        (trajectories(group={"traceparent": "t" * 600}), "characters of the traceparent id"),
    ],
)
def test_bad_trajectories(message, words):
    refused(decode_trajectory_group, message, words)


def test_a_trajectory_that_is_too_long():
    n = limits.MAX_RESPONSE_TOKENS + 1
    refused(
        decode_trajectory_group,
        trajectories(token_ids=[1] * n, logprobs=[-1] * n, policy_versions=[0] * n),
        "tokens are",
    )


def test_empty_trajectories_by_the_million_are_refused_by_size():
    """Parsed, each of two bytes on the wire would take some seventy: the bound on bytes bounds the memory."""
    with pytest.raises(WireError, match="at most 8,388,608"):
        decode_trajectory_group(trajectories().SerializeToString() + b"\x52\x00" * (limits.MAX_TRAJECTORIES_BYTES // 2))


@pytest.mark.parametrize(
    ("decoder", "message", "words"),
    [
        (decode_weight_manifest, manifest(run_id=""), "names no run"),
        (decode_weight_manifest, manifest(run_id="r" * 600), "characters of the run id"),
        (decode_weight_manifest, manifest(transport="t" * 600), "characters of the transport id"),
        (decode_weight_manifest, manifest(transport="a\0"), "the transport id holds a control character"),
        (decode_weight_manifest, manifest(version=-1), "is negative"),
        (decode_weight_manifest, manifest(kind=9), "unknown kind 9"),
        (decode_weight_manifest, manifest(uri=""), "names no file"),
        (decode_weight_manifest, manifest(uri="a\0"), "control character"),
        (decode_weight_manifest, manifest(sha256="f" * 63), "SHA-256"),
        (decode_weight_manifest, manifest(size_bytes=0), "has 0 bytes"),
        (decode_weight_manifest, manifest(size_bytes=2**62), "bytes are 4,611,686"),
        (decode_weight_manifest, manifest(tensor_count=10**6), "tensors are 1,000,000"),
        (decode_weight_manifest, manifest(tensor_count=-1), "-1 tensors"),
        (decode_weight_manifest, manifest(published_at=NAN), "published at no time"),
        (decode_run_info, run_info(run_id=""), "needs an id"),
        (decode_run_info, run_info(run_name="x" * 600), "name id"),
        (decode_run_info, run_info(started_at=INF), "began at no time"),
        (decode_run_info, run_info(student="s" * 70_000), "at most 65,536 are read"),
        (decode_pod_status, pod(recent=weights_pb2.Activity(busy_seconds=NAN)), "no number"),
        (decode_pod_status, pod(pod_id=""), "needs an id"),
        (decode_pod_status, pod(beat_at=NAN), "no number"),
        (decode_pod_status, pod(idle_seconds=INF), "no number"),
        (decode_pod_status, pod(url="u" * 5000), "characters of its URI"),
        (decode_pod_status, pod(engine="e" * 600), "engine id"),
    ],
)
def test_bad_manifests_runs_and_pods(decoder, message, words):
    refused(decoder, message, words)


@pytest.mark.parametrize("name", DECODERS)
def test_a_newer_protocol_is_told_apart(name):
    message = SEEDS[name][0]
    message.protocol += 1
    try:
        assert isinstance(refused(DECODERS[name], message, "upgrade it"), NewerProtocolError)
    finally:
        message.protocol -= 1


# Whatever comes: a valid message or the one documented error.


def read(name: str, data: bytes) -> Message | None:
    """The message, or None where it was refused; any other error is the test's."""
    try:
        return DECODERS[name](data)
    except WireError:
        return None


names = st.sampled_from(sorted(DECODERS))


@given(st.binary(max_size=400), names)
def test_noise_is_refused_or_valid(data, name):
    read(name, data)


@settings(max_examples=300)
@given(names, st.data())
def test_damaged_messages_are_refused_or_valid(name, data):
    """Bytes of a good message overwritten, cut out, doubled or put in between: the parser gets far into it."""
    message = bytearray(data.draw(st.sampled_from(SEEDS[name])).SerializeToString())
    for _ in range(data.draw(st.integers(1, 6))):
        at, to = sorted((data.draw(st.integers(0, len(message))), data.draw(st.integers(0, len(message)))))
        how = data.draw(st.sampled_from(["write", "cut", "double", "insert"]))
        noise = data.draw(st.binary(max_size=12))
        if how == "write":
            message[at : at + len(noise)] = noise
        elif how == "cut":
            del message[at:to]
        elif how == "double":
            message[to:to] = message[at:to]
        else:
            message[at:at] = noise
    decoded = read(name, bytes(message))
    if decoded is not None:
        assert DECODERS[name](decoded.SerializeToString()) == decoded


ids = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=30)
token_ids = st.integers(0, 2**31 - 1)
sha256s = st.text("0123456789abcdef", min_size=64, max_size=64)
finite = st.floats(0, 1e12)
prompts = st.builds(
    pb.PromptGroup,
    protocol=st.just(1), run_id=ids, group_id=ids, item_id=ids,
    modality=st.just(pb.MODALITY_SPEECH), purpose=st.sampled_from([pb.PURPOSE_TRAIN, pb.PURPOSE_EVAL]),
    step=st.integers(0, 2**40), prompt_token_ids=st.lists(token_ids, min_size=1, max_size=40),
    audio=st.builds(pb.AudioRef, uri=ids, sha256=sha256s),
    seeds=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8),
    sampling=st.builds(
        pb.Sampling, temperature=st.floats(0, 100, width=32), max_new_tokens=st.integers(1, 1000),
        stop_token_ids=st.lists(token_ids, max_size=4),
    ),
    min_policy_version=st.integers(0, 50), max_policy_version=st.integers(50, 2**60), attempt=st.integers(0, 100),
    dispatched_at=finite, traceparent=st.just("00-ab-cd-01"),
)  # fmt: skip


@st.composite
def trajectory_groups(draw):
    group = pb.TrajectoryGroup(protocol=1, run_id=draw(ids), group_id=draw(ids), started_at=draw(finite))
    for index in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 20))
        group.trajectories.add(
            index=index, seed=draw(st.integers(0, 2**31)), token_ids=draw(st.lists(token_ids, min_size=n, max_size=n)),
            logprobs=draw(st.lists(st.floats(-(2.0**60), 0, width=32), min_size=n, max_size=n)),
            policy_versions=draw(st.lists(st.integers(-1, 2**50), min_size=n, max_size=n)),
            finish_reason=draw(st.sampled_from([pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH])),
        )  # fmt: skip
    return group


manifests = st.builds(
    weights_pb2.WeightManifest,
    protocol=st.just(1), run_id=ids, version=st.integers(0, 2**50), kind=st.just(1), uri=ids, sha256=sha256s,
    size_bytes=st.integers(1, limits.MAX_WEIGHT_BYTES), tensor_count=st.integers(0, limits.MAX_TENSORS),
    published_at=finite,
)  # fmt: skip
pods = st.builds(
    weights_pb2.PodStatus,
    protocol=st.just(1), pod_id=ids, run_id=ids, policy_version=st.integers(-1, 2**50), url=ids, busy_seconds=finite,
    beat_at=finite, draining=st.booleans(),
)  # fmt: skip
runs = st.builds(
    weights_pb2.RunInfo, protocol=st.just(1), run_id=ids, student=st.text(max_size=50), finished=st.booleans()
)


@given(
    st.one_of(
        st.tuples(st.just(decode_prompt_group), prompts),
        st.tuples(st.just(decode_trajectory_group), trajectory_groups()),
        st.tuples(st.just(decode_weight_manifest), manifests),
        st.tuples(st.just(decode_pod_status), pods),
        st.tuples(st.just(decode_run_info), runs),
    )
)
def test_every_good_message_makes_the_round_trip(pair):
    decoder, message = pair
    assert decoder(message.SerializeToString()) == message


def test_the_limits_hold_what_a_full_group_needs():
    """The largest group that may be asked for has an answer that may be sent."""
    tokens, versions = 5 + 4, 5  # bytes of a token id and a logprob, and of a version below 2**35
    assert limits.MAX_GROUP_TOKENS * (tokens + versions) <= limits.MAX_TRAJECTORIES_BYTES


def test_the_page_names_every_limit():
    page = (Path(__file__).resolve().parents[2] / "docs" / "INPUT.md").read_text()
    for name, value in vars(limits).items():
        if name.isupper() and name != "MIB":
            row = re.search(rf"\| `{name}` \| ([\d,.]+) \|", page)
            assert row is not None, f"docs/INPUT.md lacks {name}"
            assert float(row[1].replace(",", "")) == value


@pytest.mark.parametrize("value", [np.nextafter(np.float32(1e-3), np.float32(0)), -1e-45, -9e29])
def test_logprobs_up_to_the_bounds_are_read(value):
    assert decode_trajectory_group(trajectories(logprobs=[-1.0, value]).SerializeToString())


@pytest.mark.parametrize("value", [np.float32(1e-3), -1e30, -np.inf, np.inf, np.nan])
@pytest.mark.parametrize("position", [0, 1])
def test_logprobs_from_the_bounds_on_are_refused(value, position):
    logprobs = [-1.0, -1.0]
    logprobs[position] = value
    refused(decode_trajectory_group, trajectories(logprobs=logprobs), "impossible logprob")


def test_the_versions_of_a_group_are_its_oldest_and_newest():
    group = trajectories(rows=3)
    for row, versions in zip(group.trajectories, ([4, 5], [2**50, 3], [7, 7]), strict=True):
        row.policy_versions[:] = versions
    assert policy_versions(group) == (3, 2**50)
