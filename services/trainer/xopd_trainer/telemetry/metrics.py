"""The trainer's Prometheus metrics. Labels are bounded: modality, stage, outcome, stream, part, split.

Every series is explained in docs/METRICS.md, which is generated from the texts here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from xopd.ledger import Accounts
from xopd_trainer.learning.learner import StepResult

ADVANTAGE_BUCKETS = (-20, -10, -5, -2, -1, -0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SECONDS_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
TOKEN_STAGES = ("rollout", "teacher", "trainer")
LAG_PARTS = ("in_flight", "in_queue")
ITEM_REASONS = ("prompt", "clip", "teacher")


class TrainerMetrics:
    """All series of one trainer, in a registry of its own."""

    def __init__(self) -> None:
        """Create the series."""
        self.registry = r = CollectorRegistry()
        modality = ["modality"]
        self.advantage = Histogram(
            "xopd_trainer_advantage_nats", "Advantage of each token", modality, registry=r, buckets=ADVANTAGE_BUCKETS
        )
        self.advantage_mean = Gauge("xopd_trainer_advantage_mean_nats", "Mean advantage", modality, registry=r)
        self.advantage_std = Gauge(
            "xopd_trainer_advantage_std_nats", "Standard deviation of the advantage", modality, registry=r
        )
        self.advantage_p5 = Gauge(
            "xopd_trainer_advantage_p5_nats", "5th percentile of the advantage", modality, registry=r
        )
        self.advantage_p50 = Gauge("xopd_trainer_advantage_p50_nats", "Median advantage", modality, registry=r)
        self.advantage_p95 = Gauge(
            "xopd_trainer_advantage_p95_nats", "95th percentile of the advantage", modality, registry=r
        )
        self.kl = Gauge("xopd_trainer_kl_nats", "Reverse KL to the teacher, per token", modality, registry=r)
        self.ratio = Gauge("xopd_trainer_importance_ratio_mean", "Mean importance ratio", modality, registry=r)
        self.ratio_std = Gauge(
            "xopd_trainer_importance_ratio_std", "Standard deviation of the importance ratio", modality, registry=r
        )
        self.ratio_max = Gauge("xopd_trainer_importance_ratio_max", "Largest importance ratio", modality, registry=r)
        self.clipped = Gauge(
            "xopd_trainer_clipped_share", "Share of tokens clamped or truncated; of the policy's mass with kl_estimator"
            " top_k or full", modality, registry=r,
        )  # fmt: skip
        self.entropy = Gauge("xopd_trainer_entropy_nats", "Entropy of the policy, per token", modality, registry=r)
        self.length = Gauge("xopd_trainer_response_tokens_mean", "Mean response length", modality, registry=r)
        self.truncated = Gauge(
            "xopd_trainer_truncated_share", "Share of responses cut at the limit", modality, registry=r
        )
        self.nll = Gauge("xopd_trainer_nll_nats", "Negative log-likelihood of targets, per token", modality, registry=r)
        self.repetition = Gauge("xopd_trainer_repetition_share", "Share of repeated 4-grams", modality, registry=r)
        self.teacher_mass = Gauge(
            "xopd_trainer_teacher_mass", "Mean probability of sampled tokens under the teacher", modality, registry=r
        )
        self.overlap = Gauge(
            "xopd_trainer_top_k_overlap", "Share of the policy's top k among the teacher's", modality, registry=r
        )
        self.modality_gap = Gauge(
            "xopd_trainer_modality_gap_nats", "KL(policy given speech, policy given text), per token", registry=r
        )
        self.loss = Gauge("xopd_trainer_loss", "Loss of the newest step (part: total, in, cross)", ["part"], registry=r)
        self.grad_norm = Gauge("xopd_trainer_gradient_norm", "Gradient norm before clipping", registry=r)
        self.learning_rate = Gauge("xopd_trainer_learning_rate", "Learning rate", registry=r)
        self.step = Gauge("xopd_trainer_step", "Newest finished optimiser step", registry=r)
        self.steps_skipped = Counter("xopd_trainer_steps_skipped", "Steps with a non-finite loss", registry=r)
        self.weight_version = Gauge("xopd_trainer_weight_version", "Newest published version", registry=r)
        self.policy_lag = Gauge("xopd_trainer_policy_lag_max", "Largest policy lag trained on", registry=r)
        self.lag_part = Gauge(
            "xopd_trainer_policy_lag", "Largest policy lag of the newest step: versions published before its answer"
            " came (in_flight), and between then and the step (in_queue)", ["part"], registry=r,
        )  # fmt: skip
        self.stage = Histogram(
            "xopd_trainer_stage_seconds", "Seconds of a step by stage", ["stage"], registry=r, buckets=SECONDS_BUCKETS
        )
        self.tokens = Counter("xopd_trainer_tokens", "Tokens through each stage", ["stage"], registry=r)
        self.trajectories = Gauge(
            "xopd_trainer_trajectories", "Trajectories by fate since the run began; `redispatched` counts groups",
            ["outcome"], registry=r,
        )  # fmt: skip
        self.unanswered = Gauge("xopd_trainer_unanswered_groups", "Dispatched groups without an answer", registry=r)
        self.unanswered_age = Gauge(
            "xopd_trainer_unanswered_age_seconds", "Since the oldest unanswered group was last sent; 0 without one",
            registry=r,
        )  # fmt: skip
        stream = ["stream"]
        self.queue = Gauge(
            "xopd_trainer_stream_entries", "Entries in a Redis stream: not yet acknowledged, or nobody's (dead)",
            stream, registry=r,
        )  # fmt: skip
        self.queue_pending = Gauge(
            "xopd_trainer_stream_pending_entries", "Claimed entries among them: prompts in a pod's hands, trajectories"
            " that await their checkpoint", stream, registry=r,
        )  # fmt: skip
        self.queue_age = Gauge(
            "xopd_trainer_stream_oldest_age_seconds", "Age of the oldest entry, by Redis's clock; 0 without one",
            stream, registry=r,
        )  # fmt: skip
        self.redis_up = Gauge("xopd_trainer_redis_up", "1 if Redis answered when it was last asked", registry=r)
        self.redis_memory = Gauge("xopd_trainer_redis_used_memory_bytes", "Memory that Redis uses", registry=r)
        self.redis_limit = Gauge(
            "xopd_trainer_redis_max_memory_bytes", "Memory that Redis may use, or its machine's without a limit",
            registry=r,
        )  # fmt: skip
        self.outage_waits = Counter(
            "xopd_trainer_outage_waits", "Times that the trainer waited for a disk that was full", registry=r
        )
        self.mended = Counter(
            "xopd_trainer_mended_weights", "Weight versions written again because the store had lost or damaged them",
            registry=r,
        )  # fmt: skip
        self.unreadable = Counter(
            "xopd_trainer_unreadable_entries", "Answers dropped because they could not be decoded", registry=r
        )
        self.refused_answers = Counter(
            "xopd_trainer_refused_answers", "Answers refused because they are not what was asked for", registry=r
        )
        self.refused_items = Counter(
            "xopd_trainer_refused_items", "Times that an item was left out of a step or counted as wrong: by prompt,"
            " clip or teacher", ["reason"], registry=r,
        )  # fmt: skip
        self.refused_scores = Counter(
            "xopd_trainer_refused_scores", "Teachers' answers refused because they cannot be right", registry=r
        )
        self.accuracy = Gauge("xopd_trainer_accuracy", "Held-out accuracy", ["split", "part"], registry=r)
        self.published_bytes = Counter("xopd_trainer_published_bytes", "Bytes of weight versions", registry=r)
        self.training = Gauge(
            "xopd_trainer_training", "1 while steps are taken; 0 in evaluations, pauses and at the ends", registry=r
        )
        self.heartbeat = Gauge(
            "xopd_trainer_heartbeat_seconds", "Time of the newest step (epoch); of the start before the first",
            registry=r,
        )  # fmt: skip
        self.heartbeat.set_to_current_time()
        ProcessCollector(registry=r)
        # Counters that are there from the start can be told apart from a trainer that exports none.
        for name in TOKEN_STAGES:
            self.tokens.labels(name)
        for name in LAG_PARTS:
            self.lag_part.labels(name)
        for name in ITEM_REASONS:
            self.refused_items.labels(name)
        self._published = 0
        self.record_accounts(Accounts())

    def watch(
        self,
        training: Callable[[], bool],
        version: Callable[[], int],
        unanswered: Callable[[], int],
        unanswered_age_s: Callable[[], float],
    ) -> None:
        """Read these at each scrape: whether steps are taken, the newest version, what is unanswered."""
        self.training.set_function(lambda: float(training()))
        self.weight_version.set_function(lambda: float(version()))
        self.unanswered.set_function(lambda: float(unanswered()))
        self.unanswered_age.set_function(unanswered_age_s)

    def record_step(self, record: dict[str, Any], result: StepResult, accounts: Accounts) -> None:
        """Take in a finished step."""
        for modality, signals in result.signals.items():
            for value in signals.advantage_values():
                self.advantage.labels(modality).observe(float(value))
            self._record_signals(modality, record[modality])
        for part, value in (("total", result.loss), ("in", result.loss_in), ("cross", result.loss_cross)):
            if value is not None:
                self.loss.labels(part).set(value)
        self.grad_norm.set(result.grad_norm)
        self.learning_rate.set(result.learning_rate)
        self.step.set(record["step"])
        self.steps_skipped.inc(int(result.skipped))
        self.policy_lag.set(accounts.policy_lag_max)
        for stage, seconds in record["seconds"].items():
            self.stage.labels(stage).observe(seconds)
        for stage in TOKEN_STAGES:
            self.tokens.labels(stage).inc(result.tokens[stage])
        self.record_accounts(accounts)
        self.heartbeat.set(time.time())

    def _record_signals(self, modality: str, about: dict[str, Any]) -> None:
        ratio, advantage = about["ratio"] or {}, about["advantage"] or {}
        for gauge, value in (
            (self.advantage_mean, advantage.get("mean")),
            (self.advantage_std, advantage.get("std")),
            (self.advantage_p5, advantage.get("p5")),
            (self.advantage_p50, advantage.get("p50")),
            (self.advantage_p95, advantage.get("p95")),
            (self.kl, about["kl"]),
            (self.ratio, ratio.get("mean")),
            (self.ratio_std, ratio.get("std")),
            (self.ratio_max, ratio.get("max")),
            (self.clipped, ratio.get("clipped_share")),
            (self.nll, about["nll"]),
            (self.entropy, about["entropy"]),
            (self.teacher_mass, about["teacher_mass"]),
            (self.overlap, about["top_k_overlap"]),
            (self.length, about["length"]),
            (self.truncated, about["truncated"]),
            (self.repetition, about["repetition"]),
        ):
            if value is not None:
                gauge.labels(modality).set(value)
        if about["modality_gap"] is not None:
            self.modality_gap.set(about["modality_gap"])

    def record_accounts(self, accounts: Accounts) -> None:
        """Show the accounts."""
        for outcome, count in accounts.as_json().items():
            if outcome != "policy_lag_max":
                self.trajectories.labels(outcome).set(count)

    def record_lag(self, in_flight: int, in_queue: int) -> None:
        """Take in a step's largest policy lags (versions)."""
        self.lag_part.labels("in_flight").set(in_flight)
        self.lag_part.labels("in_queue").set(in_queue)

    def record_published(self, total_bytes: int) -> None:
        """Take in how many bytes of weights this life of the trainer has published so far."""
        self.published_bytes.inc(total_bytes - self._published)
        self._published = total_bytes

    def record_evaluation(self, record: dict[str, Any]) -> None:
        """Take in an evaluation's record."""
        for part, score in record["scores"].items():
            self.accuracy.labels(record["split"], part).set(score["accuracy"])
