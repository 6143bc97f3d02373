from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WeightKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WEIGHT_KIND_UNSPECIFIED: _ClassVar[WeightKind]
    WEIGHT_KIND_FULL: _ClassVar[WeightKind]
WEIGHT_KIND_UNSPECIFIED: WeightKind
WEIGHT_KIND_FULL: WeightKind

class WeightManifest(_message.Message):
    __slots__ = ("protocol", "run_id", "version", "kind", "uri", "sha256", "size_bytes", "tensor_count", "published_at", "traceparent", "transport")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TENSOR_COUNT_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_AT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    run_id: str
    version: int
    kind: WeightKind
    uri: str
    sha256: str
    size_bytes: int
    tensor_count: int
    published_at: float
    traceparent: str
    transport: str
    def __init__(self, protocol: _Optional[int] = ..., run_id: _Optional[str] = ..., version: _Optional[int] = ..., kind: _Optional[_Union[WeightKind, str]] = ..., uri: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., tensor_count: _Optional[int] = ..., published_at: _Optional[float] = ..., traceparent: _Optional[str] = ..., transport: _Optional[str] = ...) -> None: ...

class RunInfo(_message.Message):
    __slots__ = ("protocol", "run_id", "run_name", "student", "vocabulary_fingerprint", "started_at", "finished")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_NAME_FIELD_NUMBER: _ClassVar[int]
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    run_id: str
    run_name: str
    student: str
    vocabulary_fingerprint: str
    started_at: float
    finished: bool
    def __init__(self, protocol: _Optional[int] = ..., run_id: _Optional[str] = ..., run_name: _Optional[str] = ..., student: _Optional[str] = ..., vocabulary_fingerprint: _Optional[str] = ..., started_at: _Optional[float] = ..., finished: _Optional[bool] = ...) -> None: ...

class Activity(_message.Message):
    __slots__ = ("seconds", "generated_tokens", "busy_seconds", "sync_seconds", "idle_seconds")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SYNC_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    generated_tokens: int
    busy_seconds: float
    sync_seconds: float
    idle_seconds: float
    def __init__(self, seconds: _Optional[float] = ..., generated_tokens: _Optional[int] = ..., busy_seconds: _Optional[float] = ..., sync_seconds: _Optional[float] = ..., idle_seconds: _Optional[float] = ...) -> None: ...

class PodStatus(_message.Message):
    __slots__ = ("protocol", "pod_id", "run_id", "policy_version", "engine", "engine_version", "url", "in_flight_groups", "generated_tokens", "busy_seconds", "sync_seconds", "idle_seconds", "started_at", "beat_at", "draining", "recent")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    POD_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_GROUPS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SYNC_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IDLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    BEAT_AT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    pod_id: str
    run_id: str
    policy_version: int
    engine: str
    engine_version: str
    url: str
    in_flight_groups: int
    generated_tokens: int
    busy_seconds: float
    sync_seconds: float
    idle_seconds: float
    started_at: float
    beat_at: float
    draining: bool
    recent: Activity
    def __init__(self, protocol: _Optional[int] = ..., pod_id: _Optional[str] = ..., run_id: _Optional[str] = ..., policy_version: _Optional[int] = ..., engine: _Optional[str] = ..., engine_version: _Optional[str] = ..., url: _Optional[str] = ..., in_flight_groups: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., busy_seconds: _Optional[float] = ..., sync_seconds: _Optional[float] = ..., idle_seconds: _Optional[float] = ..., started_at: _Optional[float] = ..., beat_at: _Optional[float] = ..., draining: _Optional[bool] = ..., recent: _Optional[_Union[Activity, _Mapping]] = ...) -> None: ...
