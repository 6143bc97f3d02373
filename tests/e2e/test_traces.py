"""One trace through the whole system: a real run's spans, collected by a real OTLP receiver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests.e2e.world import Run, make_world
from tests.otlp import GrpcReceiver, Seen

pytestmark = pytest.mark.timeout(600)
STEPS, GROUPS, RESPONSES = 2, 8, 4
CALL = "xopd.v1.LogprobService/Score"


@pytest.fixture(scope="module")
def receiver() -> Iterator[GrpcReceiver]:
    with GrpcReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, receiver: GrpcReceiver) -> Run:
    """A finished run of two steps."""
    run = Run(
        make_world(
            tmp_path_factory.mktemp("world"),
            run={"steps": STEPS},
            evals={"every": 0},
            tracing={"endpoint": receiver.endpoint},
        )
    )
    assert run.wait(420) == 0, run.text()
    return run


def children(spans: list[Seen]) -> dict[str, list[Seen]]:
    """Spans by their parent's id."""
    found: dict[str, list[Seen]] = defaultdict(list)
    for span in spans:
        found[span.parent].append(span)
    return found


def test_a_step_is_one_trace_through_all_services(run: Run, receiver: GrpcReceiver) -> None:
    """From prompt to rollout to score to step: every span has its parent, and each service is the one it should be."""
    steps = sorted(receiver.named("step", "trainer"), key=lambda span: span.start)
    assert [step.attributes["xopd.step"] for step in steps] == [1, 2]
    assert all(step.parent == "" and step.failure is None for step in steps)
    assert {span.trace for span in receiver.spans} == {step.trace for step in steps}
    assert {span.run for span in receiver.spans} == {"small"}
    for step in steps:
        whole = [span for span in receiver.spans if span.trace == step.trace]
        ids, below = {span.id: span for span in whole}, children(whole)
        assert all(span.parent in ids for span in whole if span is not step)
        assert {span.service for span in whole} == {"xopd-trainer", "xopd-rollout", "xopd-teacher"}
        parts = [span.name for span in sorted(below[step.id], key=lambda span: span.start)]
        assert sorted(parts) == sorted(["dispatch", *["group"] * GROUPS, "learn", "publish"])
        assert parts[-2:] == ["learn", "publish"]

        groups = [span for span in below[step.id] if span.name == "group"]
        assert len({group.attributes["xopd.group_id"] for group in groups}) == GROUPS
        for group in groups:
            check_group(group, below)

        (learn,) = (span for span in below[step.id] if span.name == "learn")
        assert {span.name for span in below[learn.id]} == {"micro-batch", "optimiser"}
        (publish,) = (span for span in below[step.id] if span.name == "publish")
        assert publish.attributes["xopd.policy_version"] == step.attributes["xopd.step"]
        loaded = below[publish.id]
        assert [span.name for span in loaded] == ["load weights"]
        assert loaded[0].service == "xopd-rollout"
        assert loaded[0].attributes["xopd.policy_version"] == step.attributes["xopd.step"]


def check_group(group: Seen, below: dict[str, list[Seen]]) -> None:
    """One group: queue, rollout, and score, the last two with what is in them."""
    spoken = group.attributes["xopd.modality"] == "speech"
    parts = {span.name: span for span in below[group.id]}
    assert sorted(span.name for span in below[group.id]) == ["queue", "rollout", "score"]
    assert parts["queue"].service == parts["rollout"].service == "xopd-rollout"
    assert parts["rollout"].instance == group.attributes["xopd.pod_id"]
    assert group.attributes["xopd.attempt"] == 0
    assert group.attributes["xopd.tokens"] == parts["rollout"].attributes["xopd.tokens"] >= RESPONSES
    assert parts["rollout"].attributes["xopd.redelivered"] is False
    assert parts["queue"].end <= parts["rollout"].end <= parts["score"].end

    inside = {span.name: span for span in below[parts["rollout"].id]}
    assert inside.keys() == {"wait for policy", "generate", "deliver", "return"} | (
        {"fetch audio"} if spoken else set()
    )
    assert inside["return"].service == "xopd-trainer"
    assert {span.service for name, span in inside.items() if name != "return"} == {"xopd-rollout"}

    (call,) = below[parts["score"].id]
    assert (call.name, call.service) == (CALL, "xopd-trainer")
    assert call.attributes["xopd.request_id"] == group.attributes["xopd.group_id"]
    (served,) = below[call.id]
    assert (served.name, served.service) == (CALL, "xopd-teacher")
    assert sorted(span.name for span in below[served.id]) == ["batch queue", "compute"]


def test_who_waited_for_weights_names_the_update(run: Run, receiver: GrpcReceiver) -> None:
    """The groups of step 2 waited for version 1, whose loading stands in the trace of step 1."""
    loaded = {span.id: span for span in receiver.named("load weights")}
    waited = [span for span in receiver.named("wait for policy") if span.links]
    found = {loaded[link].attributes["xopd.policy_version"] for span in waited for link in span.links}
    assert found == {1}
    # Version 2 was loaded for the final evaluation, which is not traced.
    assert {span.attributes["xopd.policy_version"] for span in loaded.values()} == {1, 2}


def test_off_by_default_sends_nothing(finished: Run, unwanted_receiver: GrpcReceiver) -> None:
    """Even where the environment names a receiver, as clusters with an operator do."""
    assert finished.steps()
    assert unwanted_receiver.exports == 0


def test_a_receiver_that_is_gone_stops_nothing(equal: Run) -> None:
    assert len(equal.steps()) == 2
    for log in (equal.folder / "logs").glob("*.log"):
        assert log.read_text().count("traces cannot be sent") <= 1, log.name
    assert "traces cannot be sent" in (equal.folder / "logs" / "trainer.log").read_text()
