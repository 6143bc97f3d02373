"""Reading messages off the wire: what is not ours, or newer than we know, is refused by name.

The messages themselves are generated from `protos/xopd/v1` into `xopd.v1`. Nothing here is pickled.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from xopd.v1 import trajectory_pb2 as pb

PROTOCOL = 1
"""Version of the wire protocol that this code writes, and the newest that it reads."""

MODALITY_NAMES = {pb.MODALITY_TEXT: "text", pb.MODALITY_SPEECH: "speech"}
"""What a modality is called in ids, records and metric labels."""


class WireError(ValueError):
    """A message that cannot be used; the text says what is wrong with it."""


M = TypeVar("M", bound=Message)


def decode(kind: type[M], data: bytes) -> M:
    """Parse `data` as `kind` and check its protocol version.

    Raises:
        WireError: if `data` is no such message, or of a newer protocol.
    """
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"not a {kind.DESCRIPTOR.name}: {error}") from None
    version: int = getattr(message, "protocol", PROTOCOL)
    if version == 0:
        raise WireError(f"not a {kind.DESCRIPTOR.name}: it names no protocol version")
    if version > PROTOCOL:
        raise WireError(f"{kind.DESCRIPTOR.name} of protocol {version}; this side knows {PROTOCOL}: upgrade it")
    return message


def decode_prompt_group(data: bytes) -> pb.PromptGroup:
    """Parse and check a prompt group. Raises WireError."""
    group = decode(pb.PromptGroup, data)
    _need(bool(group.run_id and group.group_id and group.item_id), "a prompt group needs run, group and item ids")
    _need(group.modality in (pb.MODALITY_TEXT, pb.MODALITY_SPEECH), f"unknown modality {group.modality}")
    _need(group.purpose in (pb.PURPOSE_TRAIN, pb.PURPOSE_EVAL), f"unknown purpose {group.purpose}")
    _need(len(group.prompt_token_ids) > 0, f"group {group.group_id} has an empty prompt")
    _need(min(group.prompt_token_ids) >= 0, f"group {group.group_id} has a negative token id")
    _need(len(group.seeds) > 0, f"group {group.group_id} has no seeds: its length is the number of responses")
    _need(group.sampling.max_new_tokens > 0, f"group {group.group_id} asks for no tokens")
    _need(group.sampling.temperature >= 0, f"group {group.group_id} has a negative temperature")
    _need(
        group.min_policy_version <= group.max_policy_version,
        f"group {group.group_id} wants a policy version from {group.min_policy_version} to {group.max_policy_version}",
    )
    if group.modality == pb.MODALITY_SPEECH:
        _need(bool(group.audio.uri and group.audio.sha256), f"group {group.group_id} is spoken but names no audio")
    return group


def decode_trajectory_group(data: bytes) -> pb.TrajectoryGroup:
    """Parse and check a trajectory group: lengths agree, every token has a policy version. Raises WireError."""
    group = decode(pb.TrajectoryGroup, data)
    _need(bool(group.run_id and group.group_id), "a trajectory group needs run and group ids")
    if group.HasField("failure"):
        return group
    _need(len(group.trajectories) > 0, f"group {group.group_id} holds neither trajectories nor a failure")
    for trajectory in group.trajectories:
        n = len(trajectory.token_ids)
        where = f"trajectory {trajectory.index} of group {group.group_id}"
        _need(n > 0, f"{where} is empty")
        _need(len(trajectory.logprobs) == n, f"{where} has {n} tokens but {len(trajectory.logprobs)} logprobs")
        _need(len(trajectory.policy_versions) == n, f"{where} lacks the policy version of some tokens")
        _need(trajectory.finish_reason != pb.FINISH_REASON_UNSPECIFIED, f"{where} does not say why it ended")
        _need(all(-1e30 < value <= 1e-3 for value in trajectory.logprobs), f"{where} has an impossible logprob")
    return group


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise WireError(otherwise)
