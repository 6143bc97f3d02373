"""Trace context in messages, whatever stands there; spans where there is a trace, and none where there is not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from structlog.testing import capture_logs
from xopd_rollout.spans import claim_span, note_answer, update_span
from xopd_trainer.dispatch.dispatcher import Dispatcher, GroupFailedError
from xopd_trainer.step import StepRunner
from xopd_trainer.telemetry import step as step_telemetry

from xopd.config.schema import Config, TracingSettings
from xopd.ledger import Ledger
from xopd.scoring.client import Counters
from xopd.streams.retry import RetryPolicy
from xopd.telemetry import NO_TRACER, Tracer, child_span, context_from, failed, finished_span, traceparent_of
from xopd.telemetry.export import _QuietExporter, _SdkLines
from xopd.v1 import trajectory_pb2 as pb
from xopd.v1 import weights_pb2

GOOD = f"00-{'a' * 32}-{'b' * 16}-01"
UNUSABLE = [
    "",
    "nonsense",
    GOOD[:-3],
    GOOD.upper(),
    GOOD + "-more",
    f"ff-{'a' * 32}-{'b' * 16}-01",
    f"00-{'0' * 32}-{'b' * 16}-01",
    f"00-{'a' * 32}-{'0' * 16}-01",
    f"00-{'g' * 32}-{'b' * 16}-01",
    "00-" + "a" * 1_000_000,
    "\x00\n\ud7ff" * 100,
]


class Tracing:
    """A tracer that keeps what it is told; `share` of the roots is sampled."""

    def __init__(self, share: float = 1.0) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=ParentBasedTraceIdRatio(share), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Tracer = provider.get_tracer("test")

    def spans(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if name in ("", span.name)]


@pytest.fixture
def traced() -> Tracing:
    return Tracing()


def prompt(**changes) -> pb.PromptGroup:
    group = pb.PromptGroup(
        protocol=1, run_id="r", group_id="g", item_id="i", modality=pb.MODALITY_SPEECH, purpose=pb.PURPOSE_TRAIN,
        step=3, prompt_token_ids=[1], seeds=[1, 2], min_policy_version=2, max_policy_version=2,
        dispatched_at=time.time() - 2.0,
    )  # fmt: skip
    group.MergeFrom(pb.PromptGroup(**changes))
    return group


def answer_to(group: pb.PromptGroup, **changes) -> pb.TrajectoryGroup:
    rows = [
        pb.Trajectory(token_ids=[1, 2, 3], finish_reason=pb.FINISH_REASON_STOP),
        pb.Trajectory(token_ids=[4, 5], finish_reason=pb.FINISH_REASON_LENGTH),
    ]
    answer = pb.TrajectoryGroup(
        protocol=1, run_id="r", group_id=group.group_id, attempt=group.attempt, pod_id="pod-7",
        traceparent=group.traceparent, finished_at=time.time(), trajectories=rows,
    )  # fmt: skip
    answer.MergeFrom(pb.TrajectoryGroup(**changes))
    return answer


def test_context_survives_the_message(traced) -> None:
    with traced.tracer.start_as_current_span("step") as span:
        group = pb.PromptGroup.FromString(prompt(traceparent=traceparent_of(span)).SerializeToString())
    carried = trace.get_current_span(context_from(group.traceparent)).get_span_context()
    assert (carried.trace_id, carried.span_id) == (span.context.trace_id, span.context.span_id)
    assert carried.is_remote and carried.trace_flags.sampled


@pytest.mark.parametrize("traceparent", UNUSABLE)
def test_an_unusable_traceparent_is_ignored(traced, caplog, traceparent: str) -> None:
    """Even where something else is being traced: it must not become the parent either. Nor does it fill the log."""
    with traced.tracer.start_as_current_span("other"):
        context = context_from(traceparent)
        assert context == Context()
        group = prompt(traceparent=traceparent)
        with claim_span(traced.tracer, group, redelivered=False) as span:
            assert not span.is_recording()
            answer = answer_to(group)
            note_answer(span, answer)
        assert answer.traceparent == "", "nor is it passed on"
    assert [span.name for span in traced.spans()] == ["other"]
    assert not caplog.records


@given(st.text(max_size=600))
def test_no_text_is_fatal(text: str) -> None:
    assert isinstance(context_from(text), Context)


def test_off_makes_no_context() -> None:
    with NO_TRACER.start_as_current_span("step", Context()) as span:
        group = prompt()
        step_telemetry.start_group(NO_TRACER, group)
        assert traceparent_of(span) == group.traceparent == ""
        with child_span(NO_TRACER, "child") as child:
            assert traceparent_of(child) == ""


def test_off_imports_no_sdk_and_no_torch() -> None:
    program = (
        "import asyncio, sys, xopd.telemetry as t\n"
        "from xopd.config.schema import Config\n"
        "config = Config(data={'manifest': 'm'}, student={'path': 's'}, teacher={'path': 't'})\n"
        "async def main():\n"
        "    async with t.tracing(config, 'trainer') as tracer:\n"
        "        assert tracer is t.NO_TRACER\n"
        "asyncio.run(main())\n"
        "print(sorted(m for m in sys.modules if m in ('torch', 'opentelemetry.sdk', 'opentelemetry.exporter')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_pod_that_traces_nothing_passes_the_context_on() -> None:
    group = prompt(traceparent=GOOD)
    with claim_span(NO_TRACER, group, redelivered=False) as span:
        answer = answer_to(group)
        note_answer(span, answer)
    assert answer.traceparent == GOOD


def test_a_child_needs_a_parent_and_tells_what_went_wrong(traced) -> None:
    with child_span(traced.tracer, "nothing"):
        pass
    with traced.tracer.start_as_current_span("root") as root:
        with pytest.raises(KeyError), child_span(traced.tracer, "child"):
            raise KeyError("x")
        with child_span(traced.tracer, "other") as other:
            failed(other, "why")
    child, other, _ = traced.spans()
    assert [span.name for span in traced.spans()] == ["child", "other", "root"]
    assert child.parent.span_id == root.context.span_id
    assert (child.status.description, other.status.description) == ("KeyError: 'x'", "why")
    assert not child.events, "no stack of values goes out"


def test_the_share_is_decided_once_for_the_whole_trace() -> None:
    traced = Tracing(share=0.0)
    with traced.tracer.start_as_current_span("step"):
        group = prompt()
        step_telemetry.start_group(traced.tracer, group).end()
    assert int(group.traceparent[-2:], 16) & 1 == 0, "the sampled flag is not set"
    pod = Tracing(share=1.0)
    with claim_span(pod.tracer, group, redelivered=False):
        pass
    assert traced.spans() == pod.spans() == []


@pytest.mark.parametrize("start", [float("nan"), float("inf"), -float("inf"), -5.0, 0.0, 1e300, 4e9])
def test_a_clock_that_cannot_be_right_is_not_believed(traced, start: float) -> None:
    now = time.time()
    finished_span(traced.tracer, "queue", start, now, parent=context_from(GOOD))
    (span,) = traced.spans()
    assert span.start_time == span.end_time == int(now * 1e9)


def test_a_claim_shows_its_wait_and_its_end(traced) -> None:
    group = prompt(traceparent=GOOD, attempt=1)
    with claim_span(traced.tracer, group, redelivered=True) as span:
        answer = answer_to(group)
        note_answer(span, answer)
    queue, rollout = traced.spans("queue")[0], traced.spans("rollout")[0]
    assert {span.parent.span_id for span in (queue, rollout)} == {int("b" * 16, 16)}
    assert queue.end_time - queue.start_time >= 2e9
    assert rollout.attributes["xopd.redelivered"] is True and rollout.attributes["xopd.attempt"] == 1
    assert (rollout.attributes["xopd.tokens"], rollout.attributes["xopd.truncated"]) == (5, 1)
    assert answer.traceparent == traceparent_of(span) != GOOD

    with claim_span(traced.tracer, group, redelivered=False) as span:
        refused = answer_to(group, failure=pb.Failure(code=pb.FAILURE_CODE_BAD_ITEM, reason="no such clip"))
        note_answer(span, refused)
    assert traced.spans("rollout")[1].status.description == "FAILURE_CODE_BAD_ITEM: no such clip"


def test_an_answer_comes_back_below_the_pods_span(traced) -> None:
    with traced.tracer.start_as_current_span("step"):
        group = prompt()
        span = step_telemetry.start_group(traced.tracer, group)
        with claim_span(traced.tracer, group, redelivered=False) as pod:
            answer = answer_to(group)
            note_answer(pod, answer)
        step_telemetry.note_answer(traced.tracer, span, answer)
        span.end()
    assert traced.spans("return")[0].parent.span_id == pod.context.span_id
    about = traced.spans("group")[0].attributes
    assert (about["xopd.pod_id"], about["xopd.tokens"], about["xopd.truncated"]) == ("pod-7", 5, 1)


def test_no_span_holds_prompts_or_responses(traced) -> None:
    """Identifiers and counts only."""
    with traced.tracer.start_as_current_span("step"):
        group = prompt(prompt_token_ids=[424242])
        span = step_telemetry.start_group(traced.tracer, group)
        with claim_span(traced.tracer, group, redelivered=False) as pod:
            answer = answer_to(group)
            answer.trajectories[0].token_ids[0] = 535353
            note_answer(pod, answer)
        step_telemetry.note_answer(traced.tracer, span, answer)
        span.end()
    told = "".join(span.to_json() for span in traced.spans())
    assert "424242" not in told and "535353" not in told


def test_a_weight_update_stands_below_its_publication(traced) -> None:
    with traced.tracer.start_as_current_span("publish") as published:
        manifest = weights_pb2.WeightManifest(version=3, traceparent=traceparent_of(published))
    with traced.tracer.start_as_current_span("wait for policy") as waiting, update_span(traced.tracer, manifest):
        pass
    (loaded,) = traced.spans("load weights")
    assert loaded.parent.span_id == published.context.span_id
    assert [link.context.span_id for link in loaded.links] == [waiting.context.span_id]
    assert [link.context.span_id for link in traced.spans("wait for policy")[0].links] == [loaded.context.span_id]


@pytest.mark.parametrize("carried", ["", "nonsense", f"00-{'a' * 32}-{'b' * 16}-00"])
def test_a_weight_update_that_nobody_traced_stands_below_who_waits(traced, carried: str) -> None:
    manifest = weights_pb2.WeightManifest(version=3, traceparent=carried)
    with traced.tracer.start_as_current_span("wait for policy") as waiting, update_span(traced.tracer, manifest):
        pass
    (loaded,) = traced.spans("load weights")
    assert loaded.parent.span_id == waiting.context.span_id


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("cannot be read (s3://bucket/a.flac)", "cannot be read (s3://bucket/a.flac)"),
        ("https://me:pass@host/a.flac?X-Sig=abc&b=c: 403", "https://host/a.flac?… 403"),
        ("('https://host/a?sig=abc') is gone", "('https://host/a?…') is gone"),
        ("why? because", "why? because"),
        ("x" * 5000, "x" * 500),
    ],
)
def test_a_reason_tells_no_secret(traced, reason: str, expected: str) -> None:
    with traced.tracer.start_as_current_span("root") as span:
        failed(span, reason)
    assert traced.spans()[0].status.description == expected


async def test_a_group_sent_once_more_says_why(traced, tmp_path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.begin_life("r", 0)
    stream: Any = Stream()
    dispatcher = Dispatcher(
        stream, ledger, redispatch_after_s=60.0, max_attempts=3, retry_policy=RetryPolicy(20.0), tracer=traced.tracer
    )
    with traced.tracer.start_as_current_span("step"):
        group = prompt()
        span = step_telemetry.start_group(traced.tracer, group)
        await dispatcher.submit([group])
    await dispatcher.retry("g", "failed", "the engine failed (pod pod-7)")
    ledger.close()
    (again,) = traced.spans("dispatch again")
    assert again.parent.span_id == span.context.span_id
    assert again.attributes == {"xopd.attempt": 1, "xopd.reason": "the engine failed (pod pod-7)"}


async def test_a_group_that_is_given_up_says_why(traced) -> None:
    nothing: Any = None
    teacher: Any = SimpleNamespace(counters=Counters())
    rejections: Any = SimpleNamespace(newest="")
    learner: Any = SimpleNamespace(method=SimpleNamespace(teacher_top_k=0))
    config = Config.model_validate({"student": {"path": "s"}, "teacher": {"path": "t"}, "data": {"manifest": "m"}})
    steps = StepRunner(config, *[nothing] * 4, learner, *[nothing] * 2, rejections, traced.tracer)
    future: asyncio.Future[pb.TrajectoryGroup] = asyncio.get_running_loop().create_future()
    future.set_exception(GroupFailedError("the clip is missing"))
    with step_telemetry.observed_step(traced.tracer, teacher, lambda: 2, 3, {}) as seen:
        group = prompt()
        with seen.dispatching([group]):
            pass
        assert await steps._sampled(3, nothing, group, future, seen) is None
    (ended,) = traced.spans("group")
    assert rejections.newest == "the clip is missing"
    assert (ended.status.is_ok, ended.status.description) == (False, "the clip is missing")


class Stream:
    """Stands for the prompt stream."""

    async def add(self, messages) -> None:
        """Take them."""


class Receiver(SpanExporter):
    """Takes or refuses batches as it is told, and counts them."""

    def __init__(self) -> None:
        self.works, self.batches, self.ended = True, 0, 0

    def export(self, spans) -> SpanExportResult:
        self.batches += 1
        return SpanExportResult.SUCCESS if self.works else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.ended += 1


@pytest.fixture
def receiver():
    lines = _SdkLines()
    inner = Receiver()
    yield inner, _QuietExporter(inner, TracingSettings(endpoint="http://there:1"), lines)
    lines.close()


def test_a_receiver_that_is_gone_is_told_once(receiver) -> None:
    inner, exporter = receiver
    with capture_logs() as lines:
        for works in (True, False, False, False, True, True, False):
            inner.works = works
            exporter.export([])
    assert [line["log_level"] for line in lines] == ["warning", "info", "warning"]


def test_the_end_waits_for_a_slow_receiver_for_one_timeout_only(receiver) -> None:
    inner, exporter = receiver
    exporter.hurry()
    exporter._until = time.monotonic() - 1.0
    exporter.export([])
    assert inner.batches == 0


def test_at_the_end_a_receiver_that_is_gone_is_not_tried_again(receiver) -> None:
    inner, exporter = receiver
    inner.works = False
    exporter.export([])
    exporter.hurry()
    exporter.export([])
    exporter.shutdown()
    assert (inner.batches, inner.ended) == (1, 1)
