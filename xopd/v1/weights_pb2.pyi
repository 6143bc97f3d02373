from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WeightKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WEIGHT_KIND_UNSPECIFIED: _ClassVar[WeightKind]
    WEIGHT_KIND_FULL: _ClassVar[WeightKind]
WEIGHT_KIND_UNSPECIFIED: WeightKind
WEIGHT_KIND_FULL: WeightKind

class WeightManifest(_message.Message):
    __slots__ = ("protocol", "run_id", "version", "kind", "uri", "sha256", "size_bytes", "tensor_count", "published_at", "traceparent")
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
    def __init__(self, protocol: _Optional[int] = ..., run_id: _Optional[str] = ..., version: _Optional[int] = ..., kind: _Optional[_Union[WeightKind, str]] = ..., uri: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., tensor_count: _Optional[int] = ..., published_at: _Optional[float] = ..., traceparent: _Optional[str] = ...) -> None: ...

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

class RunStatus(_message.Message):
    __slots__ = ("protocol", "run_id", "phase", "step", "steps", "policy_version", "progress_done", "progress_total", "eta_seconds", "teachers", "dispatched", "trained", "given_up", "lost", "beat_at")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_DONE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ETA_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TEACHERS_FIELD_NUMBER: _ClassVar[int]
    DISPATCHED_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    GIVEN_UP_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    BEAT_AT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    run_id: str
    phase: str
    step: int
    steps: int
    policy_version: int
    progress_done: int
    progress_total: int
    eta_seconds: float
    teachers: _containers.RepeatedCompositeFieldContainer[TeacherStatus]
    dispatched: int
    trained: int
    given_up: int
    lost: int
    beat_at: float
    def __init__(self, protocol: _Optional[int] = ..., run_id: _Optional[str] = ..., phase: _Optional[str] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., policy_version: _Optional[int] = ..., progress_done: _Optional[int] = ..., progress_total: _Optional[int] = ..., eta_seconds: _Optional[float] = ..., teachers: _Optional[_Iterable[_Union[TeacherStatus, _Mapping]]] = ..., dispatched: _Optional[int] = ..., trained: _Optional[int] = ..., given_up: _Optional[int] = ..., lost: _Optional[int] = ..., beat_at: _Optional[float] = ...) -> None: ...

class TeacherStatus(_message.Message):
    __slots__ = ("endpoint", "model", "engine", "ok", "problem", "in_flight", "calls", "failures", "scored_tokens", "tokens_per_second")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    SCORED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    model: str
    engine: str
    ok: bool
    problem: str
    in_flight: int
    calls: int
    failures: int
    scored_tokens: int
    tokens_per_second: float
    def __init__(self, endpoint: _Optional[str] = ..., model: _Optional[str] = ..., engine: _Optional[str] = ..., ok: _Optional[bool] = ..., problem: _Optional[str] = ..., in_flight: _Optional[int] = ..., calls: _Optional[int] = ..., failures: _Optional[int] = ..., scored_tokens: _Optional[int] = ..., tokens_per_second: _Optional[float] = ...) -> None: ...

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
