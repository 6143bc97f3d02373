"""Files beside the manifest that people write: with a byte order mark, with CRLF, in other encodings, and mistaken."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from xopd_trainer.state.summary import read_bounds as read_summary_bounds

from xopd.config.secrets import read_secret
from xopd.errors import UserError
from xopd.evals.bounds import read_bounds
from xopd.scoring.pods import parse_source

BOUNDS = {"information_ceiling": {"accuracy": 0.75, "n": 4, "ci95": [0.3, 0.95]}, "source": "zwölf"}
MARKS = pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "marked"])
ENDS = pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])


@MARKS
@ENDS
def test_bounds(tmp_path: Path, mark: bytes, end: str) -> None:
    path = tmp_path / "bounds.json"
    path.write_bytes(mark + json.dumps(BOUNDS, indent=1, ensure_ascii=False).replace("\n", end).encode())
    assert read_bounds(str(path)) == BOUNDS
    assert read_summary_bounds(str(path)) == {"information_ceiling": BOUNDS["information_ceiling"]}
    assert read_summary_bounds(None) == {}


@MARKS
@ENDS
def test_a_secret(tmp_path: Path, mark: bytes, end: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(mark + f"zwölf zeichen{end}".encode())
    assert read_secret("security.token", None, str(path)) == "zwölf zeichen"


@MARKS
@ENDS
def test_a_file_of_endpoints(tmp_path: Path, mark: bytes, end: str) -> None:
    path = tmp_path / "teachers"
    path.write_bytes(mark + end.join(["one.example:7100", "", "# two", "[::1]:7101", ""]).encode())
    assert [str(endpoint) for endpoint in parse_source(f"file:{path}").read()] == ["one.example:7100", "[::1]:7101"]


OTHERS = {"utf-16": "it is UTF-16; save it as UTF-8", "utf-32": "it is UTF-32; save it as UTF-8",
          "latin-1": "it is not UTF-8 (byte 0xf6); save it as UTF-8"}  # fmt: skip


@pytest.mark.parametrize("encoding", OTHERS)
@pytest.mark.parametrize(
    ("read", "sentence"),
    [
        (lambda path: read_bounds(str(path)), "evals.bounds {path}: cannot be read: {reason}; correct or remove it."),
        (
            lambda path: read_secret("redis.password", None, str(path)),
            "redis.password_file {path}: cannot be read ({reason}); correct the path or its rights.",
        ),
        (lambda path: parse_source(f"file:{path}").read(), "teacher.endpoints file:{path}: cannot be read: {reason}."),
    ],
    ids=["bounds", "secret", "endpoints"],
)
def test_another_encoding_is_told(tmp_path: Path, encoding: str, read, sentence: str) -> None:
    path = tmp_path / "file"
    path.write_bytes("zwölf".encode(encoding))
    with pytest.raises(UserError) as refused:
        read(path)
    assert str(refused.value) == sentence.format(path=path, reason=OTHERS[encoding])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read: Expecting property name"),
        ("", "cannot be read: Expecting value"),
        ('{"information_ceiling": {"accuracy": NaN}}', "cannot be read: NaN is no number of JSON"),
        (
            '{"information_ceiling": {"accuracy": 0.7, "accuracy": 0.8}}',
            "cannot be read: `information_ceiling.accuracy` stands twice; remove one of the two",
        ),
        ("[" * 100_000, "cannot be read: "),
        ("[0.7]", "must hold a JSON object"),
        ("0.7", "must hold a JSON object"),
        ('{"information_ceiling": 0.7}', "`information_ceiling.accuracy` must be a number in [0, 1]"),
        ('{"information_ceiling": {"accuracy": 70}}', "`information_ceiling.accuracy` must be a number in [0, 1]"),
        ('{"information_ceiling": {"accuracy": true}}', "`information_ceiling.accuracy` must be a number in [0, 1]"),
        ('{"information_ceiling": {"n": 3}}', "`information_ceiling.accuracy` must be a number in [0, 1]"),
    ],
)
def test_bounds_at_fault(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bounds.json"
    path.write_text(text)
    for read in (read_bounds, read_summary_bounds):
        with pytest.raises(UserError) as refused:
            read(str(path))
        assert str(refused.value).startswith(f"evals.bounds {path}: {words}")
