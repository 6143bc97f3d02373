"""Reading messages off the wire: what is not ours, too large, or newer than we know is refused by name.

A decoder gives a message that satisfies everything said here, or raises WireError; it never raises anything else.
"""

from __future__ import annotations

import math
import re
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from xopd.v1 import trajectory_pb2 as pb
from xopd.v1 import weights_pb2
from xopd.wire import limits

PROTOCOL = 1
"""Version of the wire protocol that this code writes, and the newest that it reads."""

MODALITY_NAMES = {pb.MODALITY_TEXT: "text", pb.MODALITY_SPEECH: "speech"}
"""What a modality is called in ids, records and metric labels."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class WireError(ValueError):
    """A message that cannot be used; the text says what is wrong with it."""


class NewerProtocolError(WireError):
    """A message of a protocol newer than ours: others may be able to read it."""


class UnusableGroupError(WireError):
    """A prompt group that names itself and cannot be sampled from: its sender can be told so."""

    def __init__(self, reason: str, group: pb.PromptGroup) -> None:
        """Hold the group."""
        super().__init__(reason)
        self.group = group


M = TypeVar("M", bound=Message)


def decode(kind: type[M], data: bytes, most_bytes: int = limits.MAX_SMALL_BYTES) -> M:
    """Parse `data` as `kind` and check its size and its protocol version.

    Raises:
        WireError: if `data` is no such message, is larger than `most_bytes`, or of a newer protocol.
    """
    name = kind.DESCRIPTOR.name
    if len(data) > most_bytes:
        raise WireError(f"{name} of {len(data):,} bytes; at most {most_bytes:,} are read")
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"not a {name}: {error}") from None
    version: int = getattr(message, "protocol", PROTOCOL)
    if version == 0:
        raise WireError(f"not a {name}: it names no protocol version")
    if version > PROTOCOL:
        raise NewerProtocolError(f"{name} of protocol {version}; this side knows {PROTOCOL}: upgrade it")
    return message


def decode_prompt_group(data: bytes) -> pb.PromptGroup:
    """Parse and check a prompt group.

    Raises:
        UnusableGroupError: if it has ids, so that it can be answered, and is wrong in another way.
        WireError: if it is no prompt group.
    """
    group = decode(pb.PromptGroup, data, limits.MAX_PROMPT_BYTES)
    _need(bool(group.run_id and group.group_id and group.item_id), "a prompt group needs run, group and item ids")
    _need_ids(run=group.run_id, group=group.group_id, item=group.item_id, traceparent=group.traceparent)
    try:
        _check_prompt_group(group)
    except WireError as error:
        raise UnusableGroupError(str(error), group) from None
    return group


def _check_prompt_group(group: pb.PromptGroup) -> None:
    where, sampling = f"group {group.group_id}", group.sampling
    _need(group.modality in (pb.MODALITY_TEXT, pb.MODALITY_SPEECH), f"unknown modality {group.modality}")
    _need(group.purpose in (pb.PURPOSE_TRAIN, pb.PURPOSE_EVAL), f"unknown purpose {group.purpose}")
    _need(len(group.prompt_token_ids) > 0, f"{where} has an empty prompt")
    _need_at_most(len(group.prompt_token_ids), limits.MAX_PROMPT_TOKENS, f"{where}: prompt tokens")
    _need(np.asarray(group.prompt_token_ids, np.int32).min() >= 0, f"{where} has a negative token id")
    _need(len(group.seeds) > 0, f"{where} has no seeds: its length is the number of responses")
    _need_at_most(len(group.seeds), limits.MAX_RESPONSES, f"{where}: responses asked for")
    _need(sampling.max_new_tokens > 0, f"{where} asks for no tokens")
    _need_at_most(sampling.max_new_tokens, limits.MAX_RESPONSE_TOKENS, f"{where}: tokens asked for in a response")
    _need_at_most(
        sampling.max_new_tokens * len(group.seeds), limits.MAX_GROUP_TOKENS, f"{where}: tokens asked for in all"
    )
    _need_at_most(len(sampling.stop_token_ids), limits.MAX_STOP_TOKENS, f"{where}: stop tokens")
    _need(min(sampling.stop_token_ids, default=0) >= 0, f"{where} has a negative stop token id")
    _need(sampling.temperature >= 0, f"{where} has a negative temperature")
    _need_at_most(sampling.temperature, limits.MAX_TEMPERATURE, f"{where}: temperature")
    _need(
        0 <= group.min_policy_version <= group.max_policy_version,
        f"{where} wants a policy version from {group.min_policy_version} to {group.max_policy_version}",
    )
    _need(group.attempt >= 0, f"{where} is its attempt {group.attempt}")
    _need(math.isfinite(group.dispatched_at), f"{where} was dispatched at no time")
    if group.modality == pb.MODALITY_SPEECH:
        _need(bool(group.audio.uri and group.audio.sha256), f"{where} is spoken but names no audio")
        _need_uri(group.audio.uri, f"{where}: audio")
        _need_sha256(group.audio.sha256, f"{where}: audio")
    else:
        _need(not group.HasField("audio"), f"{where} is text but names audio")


def decode_trajectory_group(data: bytes) -> pb.TrajectoryGroup:
    """Parse and check a trajectory group: lengths agree, every token has a policy version. Raises WireError."""
    group = decode(pb.TrajectoryGroup, data, limits.MAX_TRAJECTORIES_BYTES)
    where = f"group {group.group_id}"
    _need(bool(group.run_id and group.group_id), "a trajectory group needs run and group ids")
    _need_ids(run=group.run_id, group=group.group_id, item=group.item_id, pod=group.pod_id)
    _need_ids(traceparent=group.traceparent)
    _need(math.isfinite(group.started_at) and math.isfinite(group.finished_at), f"{where} began or ended at no time")
    if group.HasField("failure"):
        _need(not group.trajectories, f"{where} holds trajectories and a failure")
        _need_at_most(len(group.failure.reason), limits.MAX_REASON_CHARACTERS, f"{where}: characters of its reason")
        return group
    _need(len(group.trajectories) > 0, f"{where} holds neither trajectories nor a failure")
    _need_at_most(len(group.trajectories), limits.MAX_RESPONSES, f"{where}: trajectories")
    for position, trajectory in enumerate(group.trajectories):
        _check_trajectory(trajectory, position, f"trajectory {position} of {where}")
    return group


def _check_trajectory(trajectory: pb.Trajectory, position: int, where: str) -> None:
    n = len(trajectory.token_ids)
    _need(trajectory.index == position, f"{where} calls itself {trajectory.index}")
    _need(n > 0, f"{where} is empty")
    _need_at_most(n, limits.MAX_RESPONSE_TOKENS, f"{where}: tokens")
    _need(len(trajectory.logprobs) == n, f"{where} has {n} tokens but {len(trajectory.logprobs)} logprobs")
    _need(len(trajectory.policy_versions) == n, f"{where} lacks the policy version of some tokens")
    _need(trajectory.finish_reason != pb.FINISH_REASON_UNSPECIFIED, f"{where} does not say why it ended")
    _need(np.asarray(trajectory.token_ids, np.int32).min() >= 0, f"{where} has a negative token id")
    logprobs = np.asarray(trajectory.logprobs, np.float32)
    # NaN is the least and the greatest, and fails. Compared in double precision: 1e-3 is no float32.
    possible = float(logprobs.min()) > -1e30 and float(logprobs.max()) <= 1e-3
    _need(possible, f"{where} has an impossible logprob")


def policy_versions(group: pb.TrajectoryGroup) -> tuple[int, int]:
    """The oldest and the newest policy version that sampled a token of a decoded, answered group."""
    versions = [np.asarray(trajectory.policy_versions, np.int64) for trajectory in group.trajectories]
    return min(int(each.min()) for each in versions), max(int(each.max()) for each in versions)


def decode_weight_manifest(data: bytes) -> weights_pb2.WeightManifest:
    """Parse and check the announcement of a weight version. Raises WireError."""
    manifest = decode(weights_pb2.WeightManifest, data)
    where = f"weight version {manifest.version}"
    _need(bool(manifest.run_id), f"{where} names no run")
    _need_ids(run=manifest.run_id, transport=manifest.transport)
    _need(manifest.version >= 0, f"{where} is negative")
    _need(manifest.kind == weights_pb2.WEIGHT_KIND_FULL, f"{where} is of the unknown kind {manifest.kind}")
    _need(bool(manifest.uri), f"{where} names no file")
    _need_uri(manifest.uri, where)
    _need_sha256(manifest.sha256, where)
    _need(manifest.size_bytes > 0, f"{where} has {manifest.size_bytes} bytes")
    _need_at_most(manifest.size_bytes, limits.MAX_WEIGHT_BYTES, f"{where}: bytes")
    _need(manifest.tensor_count >= 0, f"{where} has {manifest.tensor_count} tensors")
    _need_at_most(manifest.tensor_count, limits.MAX_TENSORS, f"{where}: tensors")
    _need(math.isfinite(manifest.published_at), f"{where} was published at no time")
    return manifest


def decode_run_info(data: bytes) -> weights_pb2.RunInfo:
    """Parse and check what a trainer tells of its run. Raises WireError."""
    run = decode(weights_pb2.RunInfo, data)
    _need(bool(run.run_id), "a run needs an id")
    _need_ids(run=run.run_id, name=run.run_name, vocabulary=run.vocabulary_fingerprint)
    _need(math.isfinite(run.started_at), f"run {run.run_id} began at no time")
    return run


def decode_pod_status(data: bytes) -> weights_pb2.PodStatus:
    """Parse and check a rollout pod's heartbeat: its figures are finite. Raises WireError."""
    pod = decode(weights_pb2.PodStatus, data)
    _need(bool(pod.pod_id), "a pod needs an id")
    _need_ids(pod=pod.pod_id, run=pod.run_id, engine=pod.engine, version=pod.engine_version)
    _need_uri(pod.url, f"pod {pod.pod_id}")
    lately = pod.recent
    figures = (
        *(pod.busy_seconds, pod.sync_seconds, pod.idle_seconds, pod.started_at, pod.beat_at),
        *(lately.seconds, lately.busy_seconds, lately.sync_seconds, lately.idle_seconds),
    )
    _need(all(math.isfinite(figure) for figure in figures), f"pod {pod.pod_id} tells a time that is no number")
    return pod


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise WireError(otherwise)


def _need_at_most(value: float, most: float, what: str) -> None:
    # Not `value > most`: NaN must fail.
    if not value <= most:
        raise WireError(f"{what} are {value:,}; at most {most:,} are allowed")


def _need_ids(**ids: str) -> None:
    for what, text in ids.items():
        _need_at_most(len(text), limits.MAX_ID_CHARACTERS, f"characters of the {what} id")
        _need(text.isprintable(), f"the {what} id holds a control character")


def _need_uri(uri: str, where: str) -> None:
    _need_at_most(len(uri), limits.MAX_URI_CHARACTERS, f"{where}: characters of its URI")
    _need(uri.isprintable(), f"{where}: its URI holds a control character")


def _need_sha256(text: str, where: str) -> None:
    _need(_SHA256.fullmatch(text) is not None, f"{where}: its SHA-256 is not 64 lower-case hexadecimal digits")
