"""A run's status: the trainer fills it, answers it at /status and keeps it in Redis; every view of a run renders it."""

from __future__ import annotations

import time
from typing import Annotated, Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field

from xopd.report.records import Accounts, EvalRecord, Score, Seconds, StepRecord
from xopd.v1 import weights_pb2 as pb
from xopd.wire.limits import MAX_ID_CHARACTERS, MAX_URI_CHARACTERS

PHASES = {
    "teacher_test": "testing the teachers",
    "teacher_eval": "evaluating the text-only teacher",
    "base_eval": "evaluating the base student",
    "dev_eval": "evaluating on the dev split",
    "final_eval": "evaluating the final student",
    "exporting": "writing the checkpoint",
}


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds a control character")
    return text


Name = Annotated[str, Field(max_length=MAX_ID_CHARACTERS), AfterValidator(_one_line)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Part(BaseModel):
    """A part of the status; fields it does not know are ignored, so that a view may be older than its trainer."""

    model_config = ConfigDict(extra="ignore")


class Progress(Part):
    """How far the present phase is."""

    done: int = 0
    total: int = 0


class History(Part):
    """The last steps' KL to the teacher (nats a token)."""

    step: list[int] = Field(default_factory=list)
    kl_text: list[float | None] = Field(default_factory=list)
    kl_speech: list[float | None] = Field(default_factory=list)


class Activity(Part):
    """What a pod did in the last half minute."""

    seconds: Finite = 0.0
    """How long a time this covers."""
    generated_tokens: int = 0
    busy_seconds: Finite = 0.0
    sync_seconds: Finite = 0.0
    idle_seconds: Finite = 0.0


class PodStatus(Part):
    """A rollout pod, from its heartbeat; totals are of its whole life."""

    pod_id: Name
    run_id: Name = ""
    policy_version: int = 0
    """-1 before the first weights."""
    engine: Name = ""
    engine_version: Name = ""
    url: Annotated[str, Field(max_length=MAX_URI_CHARACTERS)] = ""
    in_flight: int = Field(0, validation_alias=AliasChoices("in_flight", "in_flight_groups"))
    """Groups in its hands."""
    generated_tokens: int = 0
    busy_seconds: Finite = 0.0
    sync_seconds: Finite = 0.0
    idle_seconds: Finite = 0.0
    started_at: Finite = 0.0
    beat_at: Finite = 0.0
    """Seconds since the epoch."""
    beat_age_s: float = 0.0
    draining: bool = False
    recent: Activity = Field(default_factory=Activity)

    @classmethod
    def of(cls, heartbeat: pb.PodStatus, now: float) -> PodStatus:
        """From a heartbeat as it was read at `now` (seconds since the epoch); clocks may differ: no age is below 0."""
        return cls.model_validate({**plain(heartbeat), "beat_age_s": max(0.0, now - heartbeat.beat_at)})


class TeacherStatus(Part):
    """A teacher pod as the trainer sees it."""

    endpoint: Name
    """Its numeric address and port."""
    model: Name = ""
    engine: Name = ""
    ok: bool = True
    problem: str = ""
    """Why it gets no calls, where it is not ok."""
    in_flight: int = 0
    calls: int = 0
    failures: int = 0
    scored_tokens: int = 0
    tokens_per_second: Finite = 0.0
    """Response tokens that it scored lately."""


class RunStatus(Part):
    """The run at a glance."""

    run_id: Name = ""
    run: str = ""
    phase: Name = "starting"
    """What it does now, such as training, dev_eval or finished."""
    detail: str = ""
    step: int = 0
    steps: int = 0
    policy_version: int = -1
    eta_s: Finite | None = None
    """Seconds of training left at the pace of the recent steps; None before the first."""
    progress: Progress | None = None
    latest: StepRecord | None = None
    history: History = Field(default_factory=History)
    evals: list[EvalRecord] = Field(default_factory=list)
    teacher_text: Score | None = None
    notes: list[str] = Field(default_factory=list)
    """Sentences for whoever watches, such as what a test of the teachers found."""
    pods: list[PodStatus] = Field(default_factory=list)
    teachers: list[TeacherStatus] = Field(default_factory=list)
    accounts: Accounts = Field(default_factory=Accounts)
    seconds: Seconds = Field(default_factory=dict)
    """Spent in each stage since the run began."""
    beat_at: Finite = Field(default_factory=time.time)
    """When this was so (seconds since the epoch)."""

    @property
    def doing(self) -> str:
        """The phase, for people."""
        return PHASES.get(self.phase, self.phase.replace("_", " "))


def plain(message: Message) -> dict[str, Any]:
    """A protobuf message as plain values by field; a message that is not set within it is left out."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
