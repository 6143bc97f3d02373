"""Traces over real OTLP: both protocols, a receiver that is not there, and a trace that goes on in a real teacher."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import pytest
from opentelemetry.context import Context
from structlog.testing import capture_logs

from tests.integration.teacher_process import TeacherProcess
from tests.otlp import GrpcReceiver, HttpReceiver, Receiver
from tests.random_models import make_teacher
from xopd.config import Config
from xopd.errors import UserError
from xopd.local.embedded_redis import free_port
from xopd.scoring import ScoringError, TeacherClient
from xopd.telemetry import child_span, export, tracing
from xopd.v1 import teacher_pb2 as pb
from xopd.v1 import teacher_pb2_grpc

GOOD = f"00-{'e' * 32}-{'f' * 16}-01"
CALL = "xopd.v1.LogprobService/Score"


def config(**settings) -> Config:
    return Config(
        run={"name": "traced"}, data={"manifest": "m"}, student={"path": "s"}, teacher={"path": "t"}, tracing=settings
    )


@pytest.mark.parametrize(("protocol", "kind"), [("grpc", GrpcReceiver), ("http", HttpReceiver)])
async def test_spans_arrive_by_either_protocol(protocol, kind, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=abc")
    with kind() as receiver:
        async with tracing(config(endpoint=receiver.endpoint, protocol=protocol), "rollout", "pod-1") as tracer:
            for _ in range(700):  # more than one batch: the end sends all
                with tracer.start_as_current_span("root"), child_span(tracer, "child"):
                    pass
        assert len(receiver.named("root")) == len(receiver.named("child")) == 700
        assert {(s.service, s.instance, s.run) for s in receiver.spans} == {("xopd-rollout", "pod-1", "traced")}
        assert receiver.headers["x-token"] == "abc"
        assert not isinstance(receiver, HttpReceiver) or receiver.path == "/v1/traces"


@pytest.mark.parametrize("share", [0.0, 0.5])
async def test_a_share_of_the_roots_is_sent(share: float) -> None:
    with GrpcReceiver() as receiver:
        async with tracing(config(endpoint=receiver.endpoint, sample_share=share), "trainer") as tracer:
            for _ in range(400):
                with tracer.start_as_current_span("root"), child_span(tracer, "child"):
                    pass
    roots = {span.trace for span in receiver.named("root")}
    assert {span.trace for span in receiver.named("child")} == roots
    assert len(roots) == 0 if share == 0.0 else 100 < len(roots) < 300


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_receiver_that_is_not_there_is_one_warning_and_no_error(protocol, caplog) -> None:
    settings = config(endpoint=f"http://127.0.0.1:{free_port()}", protocol=protocol, timeout_s=2.0)
    with capture_logs() as lines, caplog.at_level(logging.DEBUG, logger="opentelemetry"):
        async with tracing(settings, "trainer") as tracer:
            for _ in range(3000):
                with tracer.start_as_current_span("root"):
                    pass
    (line,) = lines
    assert line["event"].startswith("traces cannot be sent") and "refused" in line["reason"].lower()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_spans_that_do_not_fit_are_dropped_and_told_once(monkeypatch, caplog) -> None:
    """Making them goes on at full speed: the thread that makes them is this one."""
    monkeypatch.setattr(export, "QUEUE", export.BATCH)
    settings = config(endpoint=f"http://127.0.0.1:{free_port()}", timeout_s=2.0)
    with capture_logs() as lines, caplog.at_level(logging.DEBUG, logger="opentelemetry"):
        async with tracing(settings, "trainer") as tracer:
            for _ in range(5000):
                tracer.start_span("root").end()
    assert sorted(line["event"].split(":")[0] for line in lines) == [
        "spans are dropped",
        "traces cannot be sent; the run goes on",
    ]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_variable_that_cannot_be_used_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "squash")
    with pytest.raises(UserError, match="the exporter does not start"):
        async with tracing(config(endpoint="http://127.0.0.1:9"), "trainer"):
            pass


@pytest.fixture(scope="module")
def receiver():
    with GrpcReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, receiver: Receiver):
    folder: Path = tmp_path_factory.mktemp("teacher")
    process = TeacherProcess(folder / "run", make_teacher(folder / "model"), max_responses=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XOPD_TRACING__ENDPOINT", receiver.endpoint)
        process.start()
    yield process
    process.stop()


async def test_a_score_goes_on_in_the_teacher(teacher, receiver) -> None:
    async with (
        tracing(config(endpoint=receiver.endpoint), "trainer") as tracer,
        TeacherClient([teacher.grpc], tracer=tracer) as client,
    ):
        with tracer.start_as_current_span("step", Context()) as root:
            await client.score([1, 2], [[3, 4], [5]], "group-1")
            with pytest.raises(ScoringError):
                await client.score([1], [[777]], "group-2")
        await client.score([1, 2], [[3]], "nobody traces this")
    receiver.wait_for(lambda: len(receiver.named(CALL)) == 4 and bool(receiver.named("compute")))
    trace_id = f"{root.get_span_context().trace_id:032x}"
    assert {span.trace for span in receiver.spans} == {trace_id}
    (step,) = receiver.named("step")
    asked, refused = sorted(receiver.named(CALL, "trainer"), key=lambda span: span.start)
    served = {span.parent: span for span in receiver.named(CALL, "teacher")}
    assert asked.parent == refused.parent == step.id
    assert served.keys() == {asked.id, refused.id}
    assert asked.attributes["xopd.request_id"] == "group-1" and asked.failure is None
    assert "invalid argument" in str(refused.failure) and "token id 777" in str(served[refused.id].failure)
    (queue,), (compute,) = receiver.named("batch queue"), receiver.named("compute")
    assert queue.parent == compute.parent == served[asked.id].id
    assert queue.end == compute.start
    assert {span.service for span in (queue, compute)} == {"xopd-teacher"}


@pytest.mark.parametrize(
    "metadata",
    [
        (("traceparent", "nonsense"),),
        (("traceparent", "00-" + "a" * 4000),),
        (("traceparent", GOOD), ("traceparent", "nonsense")),
        (("traceparent-bin", b"\x00\xff"), ("tracestate", "=,=;" * 50)),
    ],
)
async def test_unusable_metadata_costs_a_call_nothing(teacher, receiver, metadata) -> None:
    before = len(receiver.named(CALL, "teacher"))
    async with grpc.aio.insecure_channel(teacher.grpc) as channel:
        stub = teacher_pb2_grpc.LogprobServiceStub(channel)
        request = pb.ScoreRequest(
            protocol=1, request_id="r", prompt_token_ids=[1], responses=[pb.TokenSequence(token_ids=[2])]
        )
        assert len((await stub.Score(request, timeout=10, metadata=metadata)).scores) == 1
        # A usable one comes last: once its span is there, those before it would be.
        await stub.Score(request, timeout=10, metadata=(("traceparent", GOOD),))
    receiver.wait_for(lambda: len(receiver.named(CALL, "teacher")) > before)
    assert [span.trace for span in receiver.named(CALL, "teacher")[before:]] == ["e" * 32]
