"""The rollout pod's Prometheus metrics. Labels are bounded: modality, purpose, outcome, finish reason.

Every series is explained in docs/METRICS.md, which is generated from the texts here.
"""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from xopd.data.audio import REASONS, AudioError
from xopd.telemetry.clock import ActivityClock
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import MODALITY_NAMES
from xopd_rollout.contract import BadPromptError

ACTIVITIES = ("busy", "sync")
"""What a pod's time is spent on: sampling; waiting for weight versions and applying them. The rest is idle."""
PURPOSES = {pb.PURPOSE_TRAIN: "train", pb.PURPOSE_EVAL: "eval"}
FINISH_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}
FAILURES = {
    pb.FAILURE_CODE_BAD_ITEM: "bad_item",
    pb.FAILURE_CODE_POLICY_UNAVAILABLE: "policy_unavailable",
    pb.FAILURE_CODE_ENGINE: "engine",
}
_OF_PROMPTS = ("length", "tokens", "engine")
REFUSALS = ("message", "deadly", *(f"prompt_{r}" for r in _OF_PROMPTS), *(f"audio_{r}" for r in REASONS))
"""Why an entry or an item was refused."""
LENGTH_BUCKETS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SECONDS_BUCKETS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class RolloutMetrics:
    """All series of one pod, in a registry of its own."""

    def __init__(self, clock: ActivityClock) -> None:
        """Create the series; `clock` counts the seconds of `ACTIVITIES`."""
        self.registry = r = CollectorRegistry()
        self.generated = 0
        """Tokens sampled so far."""
        by_outcome = ["modality", "purpose", "outcome"]
        self.tokens = Counter("xopd_rollout_generated_tokens", "Tokens sampled", ["modality", "purpose"], registry=r)
        self.groups = Counter("xopd_rollout_groups", "Prompt groups answered", by_outcome, registry=r)
        self.trajectories = Counter("xopd_rollout_trajectories", "Responses sampled", by_outcome[:2], registry=r)
        self.finish = Counter("xopd_rollout_finish", "Responses by end", ["modality", "reason"], registry=r)
        self.length = Histogram(
            "xopd_rollout_response_tokens", "Response length", ["modality"], registry=r, buckets=LENGTH_BUCKETS
        )
        self.group_seconds = Histogram(
            "xopd_rollout_group_seconds", "From claim to answer", ["modality"], registry=r, buckets=SECONDS_BUCKETS
        )
        self.in_flight = Gauge("xopd_rollout_in_flight_groups", "Prompt groups being worked on", registry=r)
        self.in_flight_limit = Gauge(
            "xopd_rollout_in_flight_limit_groups", "Most prompt groups this pod works on at a time", registry=r
        )
        self.queue_depth = Gauge("xopd_rollout_queue_depth", "Prompt groups not yet answered, all pods", registry=r)
        self.version = Gauge("xopd_rollout_policy_version", "Policy version held; -1 before the first", registry=r)
        self.version.set(-1)
        self.lag = Gauge("xopd_rollout_policy_lag", "Newest announced version minus the one held", registry=r)
        self.updates = Counter("xopd_rollout_policy_updates", "Weight versions applied", registry=r)
        self.sync_seconds = Histogram(
            "xopd_rollout_sync_seconds", "Wait for and application of a weight version", registry=r,
            buckets=SECONDS_BUCKETS,
        )  # fmt: skip
        self.sync_bytes = Counter("xopd_rollout_sync_bytes", "Bytes of weight versions applied", registry=r)
        self.audio_seconds = Histogram(
            "xopd_rollout_audio_seconds", "Fetching and encoding a batch of clips", registry=r, buckets=SECONDS_BUCKETS
        )
        self.redeliveries = Counter("xopd_rollout_redeliveries", "Groups taken over from another pod", registry=r)
        self.dead_letters = Counter("xopd_rollout_dead_letters", "Entries that could not be used", registry=r)
        self.refused = Counter(
            "xopd_rollout_refused", "Messages, prompts and clips refused, by fault", ["reason"], registry=r
        )
        self.refused_weights = Counter(
            "xopd_rollout_refused_weight_updates", "Weight versions refused before anything of them was applied",
            registry=r,
        )  # fmt: skip
        self.redis_errors = Counter("xopd_rollout_redis_errors", "Failed exchanges with Redis", registry=r)
        self.ready = Gauge("xopd_rollout_ready", "1 while it takes work", registry=r)
        activity = Gauge(
            "xopd_rollout_activity_seconds", "Seconds busy, in sync, idle since the pod began", ["activity"], registry=r
        )
        for kind in ACTIVITIES:
            activity.labels(kind).set_function(partial(clock.seconds, kind))
        activity.labels("idle").set_function(lambda: clock.idle)

        ProcessCollector(registry=r)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Export every counter from the start: the first failure is then an increase, not a new series."""
        for reason in REFUSALS:
            self.refused.labels(reason)
        for modality in MODALITY_NAMES.values():
            for reason in FINISH_REASONS.values():
                self.finish.labels(modality, reason)
            for purpose in PURPOSES.values():
                self.tokens.labels(modality, purpose)
                self.trajectories.labels(modality, purpose)
                for outcome in ("ok", *FAILURES.values()):
                    self.groups.labels(modality, purpose, outcome)

    def record_answer(self, group: pb.PromptGroup, answer: pb.TrajectoryGroup) -> None:
        """Take in an answered group."""
        modality, purpose = MODALITY_NAMES[group.modality], PURPOSES[group.purpose]
        outcome = FAILURES[answer.failure.code] if answer.HasField("failure") else "ok"
        self.groups.labels(modality, purpose, outcome).inc()
        self.group_seconds.labels(modality).observe(answer.finished_at - answer.started_at)
        for trajectory in answer.trajectories:
            tokens = len(trajectory.token_ids)
            self.generated += tokens
            self.tokens.labels(modality, purpose).inc(tokens)
            self.trajectories.labels(modality, purpose).inc()
            self.length.labels(modality).observe(tokens)
            self.finish.labels(modality, FINISH_REASONS[trajectory.finish_reason]).inc()

    def record_refusal(self, error: AudioError | BadPromptError) -> None:
        """Take in why an item was refused."""
        kind = "audio" if isinstance(error, AudioError) else "prompt"
        self.refused.labels(f"{kind}_{error.reason}").inc()

    def record_update(self, version: int, size_bytes: int) -> None:
        """Take in an applied weight version."""
        self.version.set(version)
        self.updates.inc()
        self.sync_bytes.inc(size_bytes)
