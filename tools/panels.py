"""What the Grafana dashboards show: rows of panels, each with its unit and its PromQL. dashboards.py makes the JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One panel."""

    title: str
    unit: str
    """Grafana's name of the unit: `none`, `short`, `percentunit` (a share), `s`, `bytes`, `Bps`."""
    targets: tuple[tuple[str, str], ...]
    """(PromQL, legend) of each line; the legend is Grafana's template."""
    about: str = ""
    kind: str = "timeseries"
    """Grafana's panel type: `timeseries`, `stat`, `table`."""


def panel(title: str, unit: str, *targets: tuple[str, str], about: str = "", kind: str = "timeseries") -> Panel:
    """A panel with one line, or more, for each of `targets`."""
    return Panel(title, unit, targets, about, kind)


def by_modality(title: str, unit: str, metric: str, about: str = "") -> Panel:
    """A gauge of the trainer, one line a modality."""
    return panel(title, unit, (metric, "{{modality}}"), about=about)


def quantiles(metric: str, by: str) -> tuple[tuple[str, str], ...]:
    """Median and 95th percentile of a histogram over five minutes, by a label, or over all pods where it is empty."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(
        (f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket[5m])))", f"{legend}{name}")
        for share, name in (("0.5", "p50"), ("0.95", "p95"))
    )


TRAINING: dict[str, list[Panel]] = {
    "Results": [
        panel(
            "Held-out accuracy",
            "percentunit",
            ("xopd_trainer_accuracy", "{{split}} {{part}}"),
            about="Speech, text and retention on the dev split while training, on the test split before and after.",
        ),
        panel("Step", "none", ("xopd_trainer_step", "step"), kind="stat"),
        panel("Newest evaluation", "percentunit", ("xopd_trainer_accuracy", "{{split}} {{part}}"), kind="stat"),
    ],
    "Distance to the teacher": [
        by_modality("Reverse KL to the teacher", "none", "xopd_trainer_kl_nats", "Nats per token."),
        by_modality("Mean probability under the teacher", "percentunit", "xopd_trainer_teacher_mass"),
        by_modality("Top-k overlap with the teacher", "percentunit", "xopd_trainer_top_k_overlap"),
    ],
    "Advantages": [
        panel(
            "Advantages, speech (cross-modal)",
            "none",
            *((f'xopd_trainer_advantage_{q}_nats{{modality="speech"}}', q) for q in ("mean", "p5", "p50", "p95")),
            about="Nats. Equation 2 of the paper.",
        ),
        panel(
            "Advantages, text (in-modal)",
            "none",
            *((f'xopd_trainer_advantage_{q}_nats{{modality="text"}}', q) for q in ("mean", "p5", "p50", "p95")),
            about="Nats. Equation 1 of the paper.",
        ),
        by_modality("Spread of the advantages", "none", "xopd_trainer_advantage_std_nats", "Nats, one deviation."),
    ],
    "Policy": [
        by_modality("Entropy", "none", "xopd_trainer_entropy_nats", "Nats per token."),
        panel(
            "Modality gap",
            "none",
            ("xopd_trainer_modality_gap_nats", "KL(speech, text)"),
            about="Nats per token, on the same response tokens.",
        ),
        by_modality("Response length", "none", "xopd_trainer_response_tokens_mean", "Tokens."),
        by_modality("Truncated responses", "percentunit", "xopd_trainer_truncated_share"),
        by_modality("Repeated 4-grams", "percentunit", "xopd_trainer_repetition_share"),
        by_modality("NLL of targets", "none", "xopd_trainer_nll_nats", "Nats per token; supervised methods only."),
    ],
    "Optimisation": [
        panel("Loss", "none", ("xopd_trainer_loss", "{{part}}")),
        panel("Gradient norm before clipping", "none", ("xopd_trainer_gradient_norm", "norm")),
        panel("Learning rate", "none", ("xopd_trainer_learning_rate", "rate")),
        panel(
            "Importance ratio",
            "none",
            ("xopd_trainer_importance_ratio_mean", "{{modality}} mean"),
            ("xopd_trainer_importance_ratio_std", "{{modality}} std"),
            ("xopd_trainer_importance_ratio_max", "{{modality}} max"),
            about="1 up to rounding while strictly on-policy; how far student.dtype rounds is in its deviation.",
        ),
        by_modality("Clamped or truncated share", "percentunit", "xopd_trainer_clipped_share"),
        panel("Steps skipped (non-finite)", "none", ("xopd_trainer_steps_skipped_total", "skipped"), kind="stat"),
    ],
}

THROUGHPUT: dict[str, list[Panel]] = {
    "Tokens": [
        panel(
            "Tokens a second by stage",
            "short",
            ("sum(xopd:rollout_tokens:rate1m)", "rollout"),
            ("xopd:teacher_tokens:rate1m", "teacher"),
            ("xopd:trainer_tokens:rate1m", "trainer"),
        ),
        panel("Sampled tokens a second", "short", ("xopd:rollout_tokens:rate1m", "{{modality}}")),
        panel(
            "Trajectories a second",
            "short",
            ("sum by (modality) (rate(xopd_rollout_trajectories_total[1m]))", "{{modality}}"),
        ),
    ],
    "Time": [
        panel("Step time by stage", "s", ("xopd:stage_seconds:mean5m", "{{stage}}"), about="Mean over five minutes."),
        panel(
            "Steps a minute", "short", ('60 * sum(rate(xopd_trainer_stage_seconds_count{stage="total"}[5m]))', "steps")
        ),
        panel("A group, from claim to answer", "s", *quantiles("xopd_rollout_group_seconds", "modality")),
        panel(
            "Pods' time",
            "percentunit",
            ("avg by (activity) (rate(xopd_rollout_activity_seconds[5m]))", "{{activity}}"),
            about="Share of the pods' time: sampling, waiting for and applying weights, waiting for work.",
        ),
    ],
    "Queues": [
        panel("Stream entries", "short", ("xopd_trainer_stream_entries", "{{stream}}")),
        panel("Entries that nobody has taken up", "short", ("xopd:stream_waiting_entries", "{{stream}}")),
        panel("Age of the oldest entry", "s", ("xopd_trainer_stream_oldest_age_seconds", "{{stream}}")),
        panel(
            "Unanswered groups",
            "short",
            ("xopd_trainer_unanswered_groups", "unanswered"),
            ("sum(xopd_rollout_in_flight_groups)", "in the pods' hands"),
        ),
        panel("Longest unanswered", "s", ("xopd_trainer_unanswered_age_seconds", "age")),
    ],
    "Teacher": [
        panel("Requests in a batch", "short", *quantiles("xopd_teacher_batch_requests", "kind")),
        panel("Tokens in a batch", "short", *quantiles("xopd_teacher_batch_tokens", "kind")),
        panel(
            "Padding share",
            "percentunit",
            ("xopd:teacher_padding_share:rate5m", "all batches"),
            *quantiles("xopd_teacher_padding_share", "kind"),
        ),
        panel("Queue", "short", ("xopd_teacher_queue_depth", "{{instance}}")),
        panel("Wait before the engine", "s", *quantiles("xopd_teacher_queue_seconds", "")),
        panel(
            "Engine busy",
            "percentunit",
            ("sum by (instance) (rate(xopd_teacher_compute_seconds_total[1m]))", "{{instance}}"),
        ),
    ],
    "Weights and audio": [
        panel("Weight sync", "s", *quantiles("xopd_rollout_sync_seconds", "")),
        panel(
            "Weight bytes",
            "Bps",
            ("sum(rate(xopd_trainer_published_bytes_total[1m]))", "published"),
            ("sum(rate(xopd_rollout_sync_bytes_total[1m]))", "applied by pods"),
        ),
        panel("Fetching and encoding clips", "s", *quantiles("xopd_rollout_audio_seconds", "")),
        panel(
            "Response length",
            "short",
            *quantiles("xopd_rollout_response_tokens", "modality"),
            about="Tokens, evaluations included.",
        ),
    ],
}

FLEET: dict[str, list[Panel]] = {
    "Who is there": [
        panel("Services up", "none", ('sum by (job) (up{job=~"xopd-.*"})', "{{job}}"), kind="stat"),
        panel("Rollout pods ready", "none", ("sum(xopd_rollout_ready)", "ready"), kind="stat"),
        panel("Teachers ready", "none", ("sum(xopd_teacher_ready)", "ready"), kind="stat"),
        panel("Training", "none", ("xopd_trainer_training", "training"), kind="stat"),
        panel("Since the newest step", "s", ("time() - xopd_trainer_heartbeat_seconds", "age"), kind="stat"),
        panel("Redis answers", "none", ("xopd_trainer_redis_up", "redis"), kind="stat"),
    ],
    "Policy versions": [
        panel(
            "Weight version by pod",
            "none",
            ("xopd_rollout_policy_version", "{{instance}}"),
            ("xopd_trainer_weight_version", "trainer"),
        ),
        panel(
            "Versions behind",
            "none",
            ("xopd_rollout_policy_lag", "{{instance}}, by its own account"),
            ("xopd:pod_versions_behind", "{{instance}}, by the trainer's"),
        ),
        panel(
            "Policy lag trained on",
            "none",
            ("xopd_trainer_policy_lag", "{{part}}"),
            ("xopd_trainer_policy_lag_max", "largest of the run"),
            about="0 while strictly on-policy.",
        ),
    ],
    "Work": [
        panel(
            "Groups in flight by pod",
            "short",
            ("xopd_rollout_in_flight_groups", "{{instance}}"),
            ("max(xopd_rollout_in_flight_limit_groups)", "limit"),
        ),
        panel(
            "Tokens a second by pod",
            "short",
            ("sum by (instance) (rate(xopd_rollout_generated_tokens_total[1m]))", "{{instance}}"),
        ),
        panel(
            "Calls in flight by teacher",
            "short",
            ("sum by (instance) (xopd_teacher_in_flight_requests)", "{{instance}}"),
        ),
        panel(
            "Tokens a second by teacher",
            "short",
            ("sum by (instance) (rate(xopd_teacher_scored_tokens_total[1m]))", "{{instance}}"),
        ),
    ],
    "Accounts and errors": [
        panel(
            "Trajectories by fate",
            "short",
            ("xopd_trainer_trajectories", "{{outcome}}"),
            about="`lost` is what is under way; it is 0 between steps.",
        ),
        panel(
            "Groups that failed",
            "short",
            ('sum by (outcome) (increase(xopd_rollout_groups_total{outcome!="ok"}[5m]))', "{{outcome}}"),
        ),
        panel(
            "Refused by pods",
            "short",
            ("sum by (reason) (increase(xopd_rollout_refused_total[5m]) > 0)", "{{reason}}"),
            ("sum(increase(xopd_rollout_refused_weight_updates_total[5m]))", "weight versions"),
            ("sum(increase(xopd_trainer_mended_weights_total[5m]))", "weight versions written again"),
        ),
        panel(
            "Groups taken over",
            "short",
            ("sum by (instance) (increase(xopd_rollout_redeliveries_total[5m]))", "{{instance}}"),
        ),
        panel(
            "Entries and items that cannot be used",
            "short",
            ("sum(increase(xopd_rollout_dead_letters_total[5m]))", "by pods"),
            ("sum(increase(xopd_trainer_unreadable_entries_total[5m]))", "unreadable for the trainer"),
            ("sum(increase(xopd_trainer_refused_answers_total[5m]))", "answers that were not asked for"),
            ("sum by (reason) (increase(xopd_trainer_refused_items_total[5m]))", "left out by the trainer: {{reason}}"),
            ('xopd_trainer_stream_entries{stream="dead"}', "kept in the dead stream"),
        ),
        panel(
            "Teacher calls by outcome",
            "short",
            ("sum by (method, outcome) (rate(xopd_teacher_requests_total[1m]))", "{{method}} {{outcome}}"),
        ),
        panel(
            "Teacher troubles",
            "short",
            ("sum(increase(xopd_teacher_shed_requests_total[5m]))", "refused: queue full"),
            ("sum by (reason) (increase(xopd_teacher_dropped_requests_total[5m]))", "dropped: {{reason}}"),
            ("sum(increase(xopd_teacher_engine_failures_total[5m]))", "engine failures"),
            ("sum(increase(xopd_teacher_non_finite_total[5m]))", "NaN or infinite"),
            ("sum(increase(xopd_trainer_refused_scores_total[5m]))", "answers the trainer refused"),
        ),
        panel(
            "Outages: failed exchanges with Redis, full disks",
            "short",
            ("sum by (instance) (increase(xopd_rollout_redis_errors_total[5m]))", "Redis, {{instance}}"),
            ("sum by (instance) (increase(xopd_trainer_outage_waits_total[5m]))", "disk, {{instance}}"),
        ),
        panel("Alerts", "none", ('ALERTS{alertname=~"Xopd.*"}', "{{alertname}} {{alertstate}}"), kind="table"),
    ],
    "Machines": [
        panel("Memory", "bytes", ('process_resident_memory_bytes{job=~"xopd-.*"}', "{{job}} {{instance}}")),
        panel(
            "CPU",
            "short",
            ('rate(process_cpu_seconds_total{job=~"xopd-.*"}[1m])', "{{job}} {{instance}}"),
            about="Cores.",
        ),
        panel(
            "Redis memory",
            "bytes",
            ("xopd_trainer_redis_used_memory_bytes", "used"),
            ("xopd_trainer_redis_max_memory_bytes", "may use"),
        ),
    ],
}

DASHBOARDS = {"training": TRAINING, "throughput": THROUGHPUT, "fleet": FLEET}
