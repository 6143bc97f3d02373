"""Files that a run reads back: manifests, metrics and teachers' answers of any content are read or refused by name."""

from __future__ import annotations

import codecs
import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xopd_trainer.state.run_files import RunFiles

from tests.fuzz.seeds import GENERATE, SCORE, SEEDS
from xopd.config.schema import Config
from xopd.data import load_items
from xopd.data.items import MAX_LINE
from xopd.errors import UserError
from xopd.report.records import read_run, read_summary
from xopd.scoring import BadAnswerError
from xopd.scoring.answers import read_generated, read_scores
from xopd.v1 import teacher_pb2 as pb

GOOD = {
    "id": "a", "kind": "task", "family": "f", "split": "train", "text": "one plus one", "answer": "two",
    "audio": {"uri": "audio/a.flac", "sha256": "0" * 64, "seconds": 1.0, "sample_rate": 16000},
}  # fmt: skip
LINE = json.dumps(GOOD)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def loaded(folder, data: bytes):
    path = folder / "items.jsonl"
    path.write_bytes(data)
    sentence = f"{path}:"
    try:
        return load_items(path)
    except UserError as error:
        sentence = str(error)
    assert sentence.startswith(f"{path}:") and sentence.isprintable()
    return None


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"id": ' + "1" * 5000 + "}",
        LINE.replace('"a"', '"\\ud800"', 1),
        LINE.replace("one plus one", "\\udfff"),
        LINE.replace('"a"', '"a\\u0000"', 1),
        LINE.replace('"a"', f'"{"a" * 300}"', 1),
        LINE.replace("1.0", "Infinity"),
        LINE.replace("1.0", "NaN"),
        LINE.replace("1.0", "-1"),
        LINE.replace("audio/a.flac", "audio/\\u0000"),
        LINE.replace("audio/a.flac", "a" * 5000),
        LINE.replace("one plus one", "x" * MAX_LINE),
        "3", "null", "[]", '"text"', "{}", '{"id": {}}', LINE + "\ufeff", LINE + "\0", LINE + LINE,
    ],
)  # fmt: skip
def test_a_line_that_is_no_item_is_one_sentence(folder, line) -> None:
    assert loaded(folder, line.encode()) is None


def with_first(line: str, addition: str) -> str:
    """The line with more members at the beginning of its object."""
    return line.replace("{", "{" + addition + ", ", 1)


@pytest.mark.parametrize(
    ("line", "item", "key"),
    [
        (LINE.replace('"family"', '"split": "test", "family"'), "a", "split"),
        (LINE.replace('"text": "one', '"text": "one plus one", "text": "one'), "a", "text"),  # the same twice
        (with_first(LINE, '"id": "b"'), "b", "id"),
        (LINE.replace('"seconds"', '"seconds": 2.0, "seconds"'), "a", "audio.seconds"),
        (LINE.replace('"uri"', '"uri": "audio/b.flac", "uri"'), "a", "audio.uri"),
        (with_first(LINE, '"audio": {}'), "a", "audio"),
        (with_first(LINE, '"targets": {"foreign": "eins", "foreign": "zwei"}'), "a", "targets.foreign"),
        (with_first(LINE, '"meta": {"from": [0, {"page": 1, "page": 2}]}'), "a", "meta.from.1.page"),
        (with_first(LINE, '"meta": {"a\\nb": 1, "a\\nb": 2}'), "a", "meta.a?b"),
        (with_first(LINE, '"meta": {"\\u0061": 1, "a": 2}'), "a", "meta.a"),  # two ways to write one key
    ],
)  # fmt: skip
def test_a_key_that_stands_twice_is_named(folder, line, item, key) -> None:
    path = folder / "items.jsonl"
    path.write_text(LINE.replace('"a"', '"z"', 1) + "\n" + line)
    with pytest.raises(UserError) as refused:
        load_items(path)
    assert str(refused.value) == f"{path}:2: item {item}: `{key}` stands twice; remove one of the two."


@pytest.mark.parametrize("field", ["seconds", "sample_rate"])
@pytest.mark.parametrize("value", ["true", "false"])
def test_a_truth_value_is_no_number(folder, field, value) -> None:
    raw = json.loads(LINE)
    raw["audio"][field] = json.loads(value)
    path = folder / "items.jsonl"
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=rf"items.jsonl:1: item a: `audio.{field}`: must be a number; correct the line"):
        load_items(path)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e400"])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(folder, value) -> None:
    for line in (LINE.replace("1.0", value), with_first(LINE, f'"meta": {{"gain": [{value}]}}')):
        path = folder / "items.jsonl"
        path.write_text(line)
        with pytest.raises(UserError, match=r"items.jsonl:1: is not JSON that can be used .*(no number|too large)"):
            load_items(path)


TWO = (json.dumps({**GOOD, "text": "zwölf"}, ensure_ascii=False), json.dumps({**GOOD, "id": "b"}))


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "marked"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("between", ["", "\n", "  \n\t\n"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n"])
def test_marks_line_ends_and_blank_lines_are_no_part_of_an_item(folder, mark, end, between, last) -> None:
    text = (TWO[0] + "\n" + between + TWO[1] + last).replace("\n", end)
    for second in (b"", mark):  # files put together keep their marks
        data = mark + text.encode().replace(TWO[1].encode(), second + TWO[1].encode())
        items = loaded(folder, data)
        assert items is not None and [(item.id, item.text) for item in items] == [("a", "zwölf"), ("b", "one plus one")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_another_unicode_encoding_is_told_by_its_name(folder, encoding) -> None:
    path = folder / "items.jsonl"
    path.write_bytes("\n".join(TWO).encode(encoding))
    name = encoding[:6].upper()
    with pytest.raises(UserError) as refused:
        load_items(path)
    assert str(refused.value) == f"{path}: cannot be read: it is {name}; save it as UTF-8."


def test_another_encoding_is_told_by_line_and_byte(folder) -> None:
    path = folder / "items.jsonl"
    path.write_bytes(TWO[1].encode() + b"\n" + TWO[0].encode("latin-1"))
    with pytest.raises(UserError) as refused:
        load_items(path)
    assert str(refused.value) == f"{path}:2: cannot be read: it is not UTF-8 (byte 0xf6); save it as UTF-8."


def test_a_manifest_in_one_line_is_not_read_into_memory(folder) -> None:
    path = folder / "items.jsonl"
    path.write_text(" " * (MAX_LINE + 1) + LINE)
    with pytest.raises(UserError, match="has more than 1,048,576 characters"):
        load_items(path)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from([*GOOD, "meta", "other"]), json_values, max_size=5).map(
        lambda changes: json.dumps({**GOOD, **changes}).encode()
    )
    | st.dictionaries(st.sampled_from(list(GOOD["audio"])), json_values, max_size=3).map(
        lambda changes: json.dumps({**GOOD, "audio": {**GOOD["audio"], **changes}}).encode()
    )
)
def test_any_manifest_is_read_or_refused(folder, data) -> None:
    for item in loaded(folder, data) or ():
        assert item.audio.uri.startswith(str(folder))
        assert 0 < item.audio.seconds < float("inf")
        item.model_dump_json().encode()


@given(st.binary(max_size=300))
def test_a_damaged_manifest_is_read_or_refused(folder, noise) -> None:
    at = len(noise) * 7 % len(LINE)
    loaded(folder, (LINE[:at].encode() + noise + LINE[at:].encode()) + b"\n" + LINE.encode())


STEP = json.dumps({"kind": "step", "step": 3, "loss": 0.5, "text": {"kl": 0.1}})


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=120),
    st.dictionaries(st.sampled_from(["kind", "step", "loss", "text", "time", "scores"]), json_values, max_size=4),
)
def test_any_metrics_are_read(tmp_path_factory, noise, changes) -> None:
    run = Config.model_validate(
        {
            "run": {"directory": str(tmp_path_factory.getbasetemp()), "name": "metrics"},
            "data": {"manifest": "m"}, "student": {"path": "s"}, "teacher": {"path": "t"},
        }
    )  # fmt: skip
    files = RunFiles(run)
    odd = json.dumps({"kind": "step", "step": 4, **changes})
    deep = "[" * 50_000
    lines = [STEP.encode(), noise.replace(b"\n", b" "), odd.encode(), deep.encode(), b"1" * 5000, STEP[:20].encode()]
    (files.folder / "metrics.jsonl").write_bytes(b"\n".join(lines))
    read = read_run(files.folder)
    assert 3 in [record.step for record in read.steps]
    records = files.records()
    assert json.loads(STEP) in records and all(isinstance(record, dict) for record in records)
    files.forget_after(3)
    assert json.loads(STEP) in files.records()


@given(st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_summary_is_read_or_refused(folder, data) -> None:
    path = folder / "summary.json"
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        read_summary(path)


# A teacher's answers.


def damaged(kind: str, data) -> bytes:
    message = bytearray(SEEDS[kind][0].SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(message)))
        noise = data.draw(st.binary(max_size=9))
        message[at : at + data.draw(st.integers(0, 9))] = noise
    return bytes(message)


def parsed(kind: type, contents: bytes):
    try:
        return kind.FromString(contents)
    except Exception:
        return None  # gRPC would not hand it on


@settings(max_examples=200)
@given(st.data())
def test_any_scores_are_whole_or_refused(data) -> None:
    response = parsed(pb.ScoreResponse, damaged("scores", data))
    if response is None:
        return
    try:
        scores = read_scores(SCORE, response, "teacher", 300)
    except BadAnswerError:
        return
    for asked, score in zip(SCORE.responses, scores, strict=True):
        n = len(asked.token_ids)
        assert score.logprobs.shape == score.tail_logprobs.shape == (n,)
        assert score.top_logprobs.shape == score.top_token_ids.shape == (n, SCORE.top_k)
        assert score.top_token_ids.max(initial=0) < 300
        assert np.isfinite(score.logprobs).all() and np.isfinite(score.top_logprobs).all()
        assert (score.top_token_ids >= 0).all()


@settings(max_examples=200)
@given(st.data())
def test_any_generation_is_whole_or_refused(data) -> None:
    response = parsed(pb.GenerateResponse, damaged("generated", data))
    if response is None:
        return
    try:
        generated = read_generated(GENERATE, response, 300)
    except BadAnswerError:
        return
    assert 1 <= len(generated.token_ids) == len(generated.logprobs) <= GENERATE.max_new_tokens
    assert ((generated.token_ids >= 0) & (generated.token_ids < 300)).all()


lengths = st.lists(st.integers(1, 6), min_size=1, max_size=4)
logprob = st.floats(-1e4, 0, width=32)


@given(lengths, st.integers(0, 3), st.data())
def test_right_scores_come_back_as_they_were_sent(sizes, top_k, data) -> None:
    request = pb.ScoreRequest(
        request_id="r", top_k=top_k, responses=[pb.TokenSequence(token_ids=[1] * n) for n in sizes]
    )

    def _some(count: int) -> list[float]:
        return data.draw(st.lists(logprob, min_size=count, max_size=count))

    sent = [
        pb.ResponseLogprobs(
            logprobs=_some(n), top_token_ids=range(n * top_k), top_logprobs=_some(n * top_k),
            tail_logprobs=_some(n if top_k else 0),
        )
        for n in sizes
    ]  # fmt: skip
    response = pb.ScoreResponse(request_id="r", model="m", scores=sent)
    read = read_scores(request, pb.ScoreResponse.FromString(response.SerializeToString()), "m", 10_000)
    for score, message in zip(read, sent, strict=True):
        assert score.logprobs.tolist() == list(message.logprobs)
        assert score.top_logprobs.ravel().tolist() == list(message.top_logprobs)
        assert score.top_token_ids.ravel().tolist() == list(message.top_token_ids)
        assert score.tail_logprobs.tolist() == list(message.tail_logprobs)
