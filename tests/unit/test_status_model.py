"""The run's status: what passes from trainer to views, and what is rejected."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from xopd.report.records import Accounts
from xopd.status.model import PodStatus, RunStatus, TeacherStatus
from xopd.v1 import weights_pb2 as pb


def test_a_status_comes_back_from_its_json() -> None:
    status = RunStatus(
        run_id="r", phase="dev_eval", accounts=Accounts(lost=1), teachers=[TeacherStatus(endpoint="a:1", calls=7)]
    )
    assert RunStatus.model_validate_json(status.model_dump_json()) == status
    assert status.doing == "evaluating on the dev split"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("phase", "\n", "control character"),
        ("eta_s", float("nan"), "finite number"),
        ("beat_at", float("inf"), "finite number"),
        ("run_id", "r" * 600, "at most 512 characters"),
        ("teachers", [{"endpoint": "a:1", "model": "m" * 600}], "at most 512 characters"),
        ("teachers", [{"endpoint": "a:1", "tokens_per_second": float("inf")}], "finite number"),
    ],
)
def test_what_no_view_could_show_is_rejected(field: str, value: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RunStatus.model_validate_json(json.dumps({"run_id": "r", field: value}))


def test_a_heartbeat_is_read_whole() -> None:
    recent = pb.Activity(seconds=30.0, generated_tokens=2**40, busy_seconds=18.5)
    beat = pb.PodStatus(
        protocol=1, pod_id="rollout-0", policy_version=-1, in_flight_groups=8, beat_at=100.0, recent=recent
    )
    pod = PodStatus.of(beat, 102.5)
    assert (pod.pod_id, pod.policy_version, pod.in_flight, pod.draining) == ("rollout-0", -1, 8, False)
    assert (pod.recent.generated_tokens, pod.recent.busy_seconds, pod.beat_age_s) == (2**40, 18.5, 2.5)
    assert PodStatus.of(beat, 90.0).beat_age_s == 0.0
