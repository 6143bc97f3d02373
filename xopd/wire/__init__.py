"""The wire: messages, how large they may be, and how they are read.

The messages themselves are generated from `protos/xopd/v1` into `xopd.v1`. Nothing here is pickled.
"""

from xopd.wire.messages import (
    MODALITY_NAMES,
    PROTOCOL,
    NewerProtocolError,
    UnusableGroupError,
    WireError,
    decode,
    decode_pod_status,
    decode_prompt_group,
    decode_run_info,
    decode_trajectory_group,
    decode_weight_manifest,
    policy_versions,
)
from xopd.wire.scores import TokenScores

__all__ = [
    "MODALITY_NAMES",
    "PROTOCOL",
    "NewerProtocolError",
    "TokenScores",
    "UnusableGroupError",
    "WireError",
    "decode",
    "decode_pod_status",
    "decode_prompt_group",
    "decode_run_info",
    "decode_trajectory_group",
    "decode_weight_manifest",
    "policy_versions",
]
