"""Every setting of X-OPD: one tree of pydantic models that all services read.

The reference page `docs/CONFIG.md` is generated from the descriptions here.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from xopd.config.objective import ObjectiveSettings, XopdSettings
from xopd.config.redis import RedisSettings
from xopd.config.section import Fraction, NonNegativeInt, Port, PositiveFloat, PositiveInt, Section
from xopd.config.security import SecuritySettings
from xopd.wire.limits import MAX_GROUP_TOKENS, MAX_RESPONSE_TOKENS, MIB

UriScheme = Literal["file", "s3", "gs", "abfs", "https", "http"]


class RunSettings(Section):
    """What this run is called, where it writes, and how long it trains."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        "run", description="Name of the run; its files lie in DIRECTORY/NAME."
    )
    directory: str = Field("runs", description="Folder that holds all runs.")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(
        0, description="Seed of the data order and of every sampled trajectory."
    )
    steps: PositiveInt = Field(300, description="Optimiser steps.")
    checkpoint_every: PositiveInt = Field(50, description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt = Field(2, description="Newest checkpoints kept; older ones are removed.")
    stall_timeout_s: PositiveFloat = Field(
        300.0,
        description="Give up, with a checkpoint, when no trajectory arrives, Redis cannot be reached or a disk is full"
        " for so long (seconds).",
    )
    deterministic: bool = Field(
        False,
        description="Sample, score and encode one request at a time, so that the same configuration gives the same"
        " weights bit for bit on the same kind of machine, however often a part was restarted. Slower.",
    )


class DataSettings(Section):
    """The instructions, as text and as speech."""

    manifest: str = Field(description="items.jsonl: one item a line; audio URIs are relative to its folder.")
    train_split: str = Field("train", description="Items with this `split` are trained on.")
    eval_split: str = Field("test", description="Items with this `split` are evaluated before and after.")
    dev_split: str = Field("dev", description="Items with this `split` are evaluated while training.")
    max_audio_seconds: PositiveFloat = Field(
        30.0, description="Longer clips are refused; so are those beyond the window of the student's audio tower."
    )
    max_audio_bytes: PositiveInt = Field(64 * MIB, description="Larger files of audio are refused (bytes).")
    uri_schemes: Annotated[list[UriScheme], Field(min_length=1)] = Field(
        ["file"],
        description="How audio may be named: `file` is a path of the machine itself; the others are read with fsspec,"
        " each with its own package.",
    )
    audio_roots: list[str] = Field(
        default_factory=list,
        description="Absolute folders and URIs below which clips must lie, after links are followed; nothing else is"
        " read, whoever asks for it. Empty: the manifest's folder.",
    )

    @model_validator(mode="after")
    def _roots_are_absolute(self) -> DataSettings:
        for root in self.audio_roots:
            scheme, uri, _ = root.rpartition("://")
            if not uri and not root.startswith("/"):
                raise ValueError(f"audio_roots holds {root!r}; give an absolute folder, or a URI")
            if uri and scheme not in self.uri_schemes:
                raise ValueError(f"audio_roots holds {root!r}, whose scheme is not among uri_schemes")
        return self


class StudentSettings(Section):
    """The speech LLM that is trained: the policy."""

    path: str = Field(
        description="Checkpoint: a folder in the hub's layout, or a hub id, `org/name` or `org/name@revision`."
    )
    family: str = Field(
        "auto", description="Model family, by its `model_type`. `auto` reads it from the checkpoint's config.json."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number format of the weights that are sampled, published and exported, and of the learner's"
        " forward pass. What the optimiser steps is `learner.master_dtype`.",
    )
    audio_input: Literal["features", "waveform"] = Field(
        "features",
        description="What vLLM is handed for a clip: the frozen tower's outputs, encoded once, or the waveform.",
    )
    feature_cache: str = Field(
        ".cache/features", description="Folder of encoded clips, shared by pods and trainer where they share a disk."
    )
    features_in_memory_gb: Annotated[float, Field(ge=0.0)] = Field(
        0.25, description="Encoded clips that the trainer, each pod and its engine keep in memory, each (GiB)."
    )


class TeacherSettings(Section):
    """The text LLM that scores: always given the text instruction."""

    path: str = Field(
        description="Checkpoint, named as the student's; both must mean the same by every token id of a response."
    )
    engine: Literal["transformers", "vllm"] = Field("transformers", description="What computes log-probabilities.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number format of weights and compute.")
    endpoints: list[str] = Field(
        default_factory=list,
        description="host:port of teacher pods, for trainers; a name with several addresses counts as several pods."
        " `file:PATH` is a file that lists such, one a line, and is read again and again. Empty: `xopd up` starts one.",
    )
    host: str = Field("127.0.0.1", description="Address that the teacher service binds.")
    port: Port = Field(0, description="gRPC port that the teacher service binds; 0 takes a free one.")
    http_port: Port = Field(0, description="Port of /healthz, /readyz, /metrics and /version; 0 takes a free one.")
    token_budget: PositiveInt = Field(16384, description="Most tokens in one forward pass.")
    max_queue: PositiveInt = Field(512, description="Requests waiting; beyond that, RESOURCE_EXHAUSTED.")
    batch_window_ms: Annotated[float, Field(ge=0.0)] = Field(
        2.0, description="How long a batch waits for more requests (milliseconds)."
    )
    max_top_k: NonNegativeInt = Field(64, description="Largest top-k a request may ask for.")
    max_responses: PositiveInt = Field(256, description="Most responses in one request.")
    deadline_s: PositiveFloat = Field(60.0, description="Deadline of one call (seconds).")
    attempts: PositiveInt = Field(8, description="Tries of one call before the trainer gives up.")
    retry_limit_s: PositiveFloat = Field(
        90.0, description="No call is given up before this long, however often it failed: a pod may restart (seconds)."
    )
    threads: NonNegativeInt = Field(1, description="CPU threads of the engine; 0 leaves the default.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity logged.")


class RolloutSettings(Section):
    """The pods that sample responses with vLLM."""

    pods: PositiveInt = Field(2, description="Rollout pods that `xopd up` starts.")
    pod_id: str | None = Field(None, description="Name of this pod; empty takes host name and process id.")
    host: str = Field("127.0.0.1", description="Address that the pod's HTTP endpoints bind.")
    port: Port = Field(0, description="Port of the pod's HTTP endpoints; 0 takes a free one.")
    announce: str | None = Field(
        None,
        description="Host name or IP address under which others reach the pod, for its heartbeat. Empty: `host`, or,"
        " where that is every interface, the address of this machine that leads to Redis.",
    )
    max_in_flight: PositiveInt = Field(16, description="Prompt groups that one pod works on at a time.")
    max_model_len: PositiveInt = Field(512, description="Longest prompt plus response (tokens).")
    kv_cache_gb: PositiveFloat = Field(0.25, description="Key-value cache of a CPU pod (GiB).")
    gpu_memory_utilization: Fraction = Field(0.85, description="Share of GPU memory that vLLM takes.")
    tensor_parallel: PositiveInt = Field(1, description="GPUs that one pod spans.")
    enforce_eager: bool = Field(True, description="Skip graph capture: quicker start, slower large batches.")
    threads: NonNegativeInt = Field(1, description="CPU threads of the engine; 0 leaves the default.")
    heartbeat_s: PositiveFloat = Field(2.0, description="Seconds between heartbeats.")
    update_timeout_s: PositiveFloat = Field(60.0, description="Longest wait for a weight version (seconds).")
    group_timeout_s: PositiveFloat = Field(
        300.0, description="Longest time that one group may keep the engine; then it is given up (seconds)."
    )
    drain_timeout_s: PositiveFloat = Field(30.0, description="Time to finish claimed work on SIGTERM (seconds).")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity logged.")


class SamplingSettings(Section):
    """How training responses are sampled. Top-p and top-k are not settings: they would bias the ratio."""

    temperature: PositiveFloat = Field(1.0, description="Sampling temperature; the objective assumes 1.")
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_RESPONSE_TOKENS)] = Field(
        48, description="Longest response (tokens, end-of-turn included)."
    )


class OptimiserSettings(Section):
    """Adam on the language model; the audio tower and the adapter stay frozen."""

    name: Literal["adam", "adamw"] = Field("adam", description="Optimiser.")
    learning_rate: PositiveFloat = Field(3e-4, description="Peak learning rate.")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.999), description="Adam's averaging rates.")
    epsilon: PositiveFloat = Field(1e-8, description="Adam's epsilon.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Decoupled decay; `adamw` only.")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="Decay to 0 over the run.")
    warmup_steps: NonNegativeInt = Field(0, description="Steps of linear warm-up.")
    max_grad_norm: PositiveFloat | None = Field(1.0, description="Clip the gradient's norm. Empty: no clipping.")

    @model_validator(mode="after")
    def _decay_needs_adamw(self) -> OptimiserSettings:
        if self.weight_decay > 0 and self.name != "adamw":
            raise ValueError("weight_decay is used by adamw only: set name to adamw, or weight_decay to 0")
        return self


class LearnerSettings(Section):
    """How the policy is trained."""

    master_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number format of the weights that the optimiser steps, and of Adam's averages. The policy's"
        " parameters are these rounded to `student.dtype`. `bfloat16` saves 10 bytes a parameter, and needs a bfloat16"
        " student and a learning rate of 6.1e-5 or more: smaller steps are rounded away from weights near 0.02,"
        " and Adam's average of squared gradients cannot fall while `betas[1]` is above 0.998.",
    )


class TrainerSettings(Section):
    """The learner's batch and the trainer's endpoints."""

    batch_prompts: PositiveInt = Field(16, description="Items a step; each gives N responses in each modality.")
    micro_batch_groups: PositiveInt = Field(16, description="Groups (item and modality) in one forward pass.")
    max_policy_lag: Literal[0] = Field(
        0, description="Oldest policy version that may be trained on, counted back. 0: strictly on-policy."
    )
    redispatch_after_s: PositiveFloat = Field(
        120.0, description="A group unanswered so long is dispatched once more (seconds)."
    )
    max_attempts: PositiveInt = Field(5, description="Dispatches of one group before its item is given up.")
    max_skipped_steps: PositiveInt = Field(
        3,
        description="Steps in a row whose loss or gradient is not finite, after which the run stops; each leaves the"
        " weights as they were.",
    )
    overlap_top_k: NonNegativeInt = Field(
        8,
        description="k of the logged top-k overlap of student and teacher; 0 leaves it out. Training steps of a method"
        " that asks for fewer tokens (`objective.top_k`) have none.",
    )
    gap_groups: NonNegativeInt = Field(
        4,
        description="Speech groups a step whose responses are also read after the text prompt, for the logged modality"
        " gap KL(policy given speech, policy given text); 0 leaves it out.",
    )
    host: str = Field("127.0.0.1", description="Address that the trainer's HTTP endpoints bind.")
    port: Port = Field(0, description="Port of the trainer's HTTP endpoints; 0 takes a free one.")
    threads: NonNegativeInt = Field(2, description="CPU threads of the learner; 0 leaves the default.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity logged.")


class EvalSettings(Section):
    """Held-out evaluation on the rollout pods, greedy."""

    every: NonNegativeInt = Field(50, description="Steps between evaluations on the dev split; 0: none.")
    dev_items: PositiveInt = Field(200, description="Most items of the dev split evaluated at a time.")
    probe_items: NonNegativeInt = Field(
        16,
        description="Items of the dev split answered at temperature 1 and scored by the teacher at each evaluation, so"
        " that the signals of all methods can be compared; 0: none.",
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_RESPONSE_TOKENS)] = Field(
        48, description="Longest answer (tokens)."
    )
    grader: str = Field(
        "final_answer",
        description="What says whether an answer is right. `final_answer`: the words after the last `answer` of a"
        " response are the item's `answer`. `exact_match`: the whole response is. See docs/DATA.md.",
    )
    bounds: str | None = Field(
        None, description="JSON file of known bounds, such as the information ceiling; copied into the report."
    )


class WeightSettings(Section):
    """How weight versions reach the rollout pods."""

    transport: Literal["store"] = Field(
        "store", description="How weight versions travel. `store`: as files that trainer and pods see."
    )
    uri: str | None = Field(
        None, description="fsspec URI of the store, seen by trainer and pods. Empty: RUN/weights on the local disk."
    )
    keep: Annotated[int, Field(ge=2)] = Field(3, description="Newest versions kept in the store.")


class TracingSettings(Section):
    """Distributed traces over OTLP, see docs/TRACES.md; a token is given in the variable OTEL_EXPORTER_OTLP_HEADERS."""

    endpoint: str = Field(
        "", description="http:// or https:// URL of an OTLP receiver, such as http://collector:4317. Empty: no traces."
    )
    protocol: Literal["grpc", "http"] = Field(
        "grpc",
        description="`grpc`: OTLP over gRPC, usually port 4317. `http`: protobuf over HTTP, usually port 4318, sent to"
        " ENDPOINT/v1/traces.",
    )
    sample_share: Fraction = Field(1.0, description="Share of the steps that are traced.")
    timeout_s: PositiveFloat = Field(
        5.0, description="Longest wait for the receiver, at one export and at the end of a process (seconds)."
    )

    @model_validator(mode="after")
    def _endpoint_is_a_url(self) -> TracingSettings:
        if not self.endpoint:
            return self
        try:
            url = urlsplit(self.endpoint)
            usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            usable = False
        # The rest of the address is not repeated: it may hold a password.
        if not usable or "@" in self.endpoint:
            raise ValueError(
                "endpoint must be http://host:port or https://host:port without user and password; tokens go in"
                " OTEL_EXPORTER_OTLP_HEADERS"
            )
        if self.protocol == "grpc" and (url.path.strip("/") or url.query):
            raise ValueError(
                "endpoint has a path, which protocol grpc does not use: remove it, or set protocol to http"
            )
        return self


TYPICAL_WEIGHT = 0.02
"""Magnitude of a language model's weights: the standard deviation that Qwen's, and most others', are drawn with."""
BFLOAT16_DIGITS = 8
"""Binary digits of a bfloat16 significand, the implied one included."""


class Config(BaseSettings):
    """The whole tree. Read it with `xopd.config.load_config`, which knows the sources and their order."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="XOPD_", env_nested_delimiter="__", validate_default=True
    )

    run: RunSettings = Field(default_factory=lambda: RunSettings())
    redis: RedisSettings = Field(default_factory=lambda: RedisSettings())
    security: SecuritySettings = Field(default_factory=lambda: SecuritySettings())
    data: DataSettings
    student: StudentSettings
    teacher: TeacherSettings
    rollout: RolloutSettings = Field(default_factory=lambda: RolloutSettings())
    sampling: SamplingSettings = Field(default_factory=lambda: SamplingSettings())
    objective: ObjectiveSettings = Field(default_factory=lambda: XopdSettings())
    optimiser: OptimiserSettings = Field(default_factory=lambda: OptimiserSettings())
    learner: LearnerSettings = Field(default_factory=lambda: LearnerSettings())
    trainer: TrainerSettings = Field(default_factory=lambda: TrainerSettings())
    evals: EvalSettings = Field(default_factory=lambda: EvalSettings())
    weights: WeightSettings = Field(default_factory=lambda: WeightSettings())
    tracing: TracingSettings = Field(default_factory=lambda: TracingSettings())

    @model_validator(mode="after")
    def _on_policy_needs_temperature_one(self) -> Config:
        if self.sampling.temperature != 1.0:
            raise ValueError(
                "sampling.temperature must be 1: the recomputed log-probabilities of the objective are those of"
                f" temperature 1, not {self.sampling.temperature}"
            )
        if self.sampling.max_new_tokens >= self.rollout.max_model_len:
            raise ValueError(
                f"sampling.max_new_tokens ({self.sampling.max_new_tokens}) must be below rollout.max_model_len"
                f" ({self.rollout.max_model_len}): the prompt needs room"
            )
        if self.evals.max_new_tokens >= self.rollout.max_model_len:
            raise ValueError(
                f"evals.max_new_tokens ({self.evals.max_new_tokens}) must be below rollout.max_model_len"
                f" ({self.rollout.max_model_len}): the prompt needs room"
            )
        if self.objective.samples * self.sampling.max_new_tokens > MAX_GROUP_TOKENS:
            raise ValueError(
                "objective.samples x sampling.max_new_tokens is"
                f" {self.objective.samples * self.sampling.max_new_tokens:,} tokens; at most {MAX_GROUP_TOKENS:,}"
                " travel in one message"
            )
        return self

    @model_validator(mode="after")
    def _masters_can_be_stepped(self) -> Config:
        """Reject masters that no step changes.

        A number w with 2^(e-1) <= |w| < 2^e and a significand of p binary digits lies 2^(e-p) from the next larger one,
        and a sum that is nearer to w than half of that is rounded to w: in bfloat16 (p = 8), 2^-14 = 6.1e-5 for
        w = 0.02 (e = -5). A step of Adam is about the learning rate, whatever the gradient's size. With 1e-6 only
        weights below 2^-11 move at all: 2 % of a normal distribution of standard deviation 0.02.
        """
        if self.learner.master_dtype == "float32":
            return self
        if self.student.dtype == "float32":
            raise ValueError(
                "learner.master_dtype bfloat16 holds fewer digits than student.dtype float32: set learner.master_dtype"
                " to float32, or student.dtype to bfloat16"
            )
        spacing = 2.0 ** (math.frexp(TYPICAL_WEIGHT)[1] - BFLOAT16_DIGITS)
        if self.optimiser.learning_rate < spacing / 2:
            raise ValueError(
                f"optimiser.learning_rate {self.optimiser.learning_rate:g} would train next to nothing with"
                f" learner.master_dtype bfloat16: weights near {TYPICAL_WEIGHT} lie {spacing:.1e} apart there, and an"
                f" Adam step, about the learning rate, is rounded away below {spacing / 2:.1e}; set"
                " learner.master_dtype to float32"
            )
        return self
