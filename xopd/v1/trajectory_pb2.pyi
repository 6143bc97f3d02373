from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Modality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODALITY_UNSPECIFIED: _ClassVar[Modality]
    MODALITY_TEXT: _ClassVar[Modality]
    MODALITY_SPEECH: _ClassVar[Modality]

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_UNSPECIFIED: _ClassVar[Purpose]
    PURPOSE_TRAIN: _ClassVar[Purpose]
    PURPOSE_EVAL: _ClassVar[Purpose]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]

class FailureCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_CODE_UNSPECIFIED: _ClassVar[FailureCode]
    FAILURE_CODE_BAD_ITEM: _ClassVar[FailureCode]
    FAILURE_CODE_POLICY_UNAVAILABLE: _ClassVar[FailureCode]
    FAILURE_CODE_ENGINE: _ClassVar[FailureCode]
MODALITY_UNSPECIFIED: Modality
MODALITY_TEXT: Modality
MODALITY_SPEECH: Modality
PURPOSE_UNSPECIFIED: Purpose
PURPOSE_TRAIN: Purpose
PURPOSE_EVAL: Purpose
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FAILURE_CODE_UNSPECIFIED: FailureCode
FAILURE_CODE_BAD_ITEM: FailureCode
FAILURE_CODE_POLICY_UNAVAILABLE: FailureCode
FAILURE_CODE_ENGINE: FailureCode

class AudioRef(_message.Message):
    __slots__ = ("uri", "sha256")
    URI_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    uri: str
    sha256: str
    def __init__(self, uri: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "max_new_tokens", "stop_token_ids")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    max_new_tokens: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, temperature: _Optional[float] = ..., max_new_tokens: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class PromptGroup(_message.Message):
    __slots__ = ("protocol", "run_id", "group_id", "item_id", "modality", "purpose", "step", "prompt_token_ids", "audio", "seeds", "sampling", "min_policy_version", "max_policy_version", "attempt", "dispatched_at", "traceparent")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MIN_POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DISPATCHED_AT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    run_id: str
    group_id: str
    item_id: str
    modality: Modality
    purpose: Purpose
    step: int
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    audio: AudioRef
    seeds: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    min_policy_version: int
    max_policy_version: int
    attempt: int
    dispatched_at: float
    traceparent: str
    def __init__(self, protocol: _Optional[int] = ..., run_id: _Optional[str] = ..., group_id: _Optional[str] = ..., item_id: _Optional[str] = ..., modality: _Optional[_Union[Modality, str]] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., step: _Optional[int] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., audio: _Optional[_Union[AudioRef, _Mapping]] = ..., seeds: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., min_policy_version: _Optional[int] = ..., max_policy_version: _Optional[int] = ..., attempt: _Optional[int] = ..., dispatched_at: _Optional[float] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Trajectory(_message.Message):
    __slots__ = ("index", "seed", "token_ids", "logprobs", "policy_versions", "finish_reason")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    index: int
    seed: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    policy_versions: _containers.RepeatedScalarFieldContainer[int]
    finish_reason: FinishReason
    def __init__(self, index: _Optional[int] = ..., seed: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., policy_versions: _Optional[_Iterable[int]] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: FailureCode
    reason: str
    def __init__(self, code: _Optional[_Union[FailureCode, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class TrajectoryGroup(_message.Message):
    __slots__ = ("protocol", "run_id", "group_id", "item_id", "modality", "purpose", "step", "attempt", "pod_id", "trajectories", "failure", "started_at", "finished_at", "traceparent")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    run_id: str
    group_id: str
    item_id: str
    modality: Modality
    purpose: Purpose
    step: int
    attempt: int
    pod_id: str
    trajectories: _containers.RepeatedCompositeFieldContainer[Trajectory]
    failure: Failure
    started_at: float
    finished_at: float
    traceparent: str
    def __init__(self, protocol: _Optional[int] = ..., run_id: _Optional[str] = ..., group_id: _Optional[str] = ..., item_id: _Optional[str] = ..., modality: _Optional[_Union[Modality, str]] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., step: _Optional[int] = ..., attempt: _Optional[int] = ..., pod_id: _Optional[str] = ..., trajectories: _Optional[_Iterable[_Union[Trajectory, _Mapping]]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., started_at: _Optional[float] = ..., finished_at: _Optional[float] = ..., traceparent: _Optional[str] = ...) -> None: ...
