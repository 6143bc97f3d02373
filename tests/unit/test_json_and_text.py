"""Strict JSON and text files of people: what is read, what is refused, and in which words."""

from __future__ import annotations

import codecs
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xopd.files import EncodingError, read_text
from xopd.jsonl import NOT_JSON, RepeatedKeyError, loads_strict, read_json_lines

finite = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(finite)
def test_json_without_fault_is_read_as_ever(value) -> None:
    assert loads_strict(json.dumps(value)) == value


@given(st.text(max_size=40))
def test_what_json_refuses_is_refused(text) -> None:
    try:
        wanted = json.loads(text)
    except NOT_JSON:
        with pytest.raises(NOT_JSON):
            loads_strict(text)
    else:
        if wanted == wanted and wanted not in (float("inf"), float("-inf")):  # NaN alone differs from itself
            assert loads_strict(text) == wanted


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ('{"a": 1, "a": 1}', "a", {"a": 1}),
        ('{"a": 1, "b": 2, "b": 3, "a": 4}', "b", {"a": 1, "b": 2}),
        ('{"a": {"b": {"c": 1, "c": 2}}}', "a.b.c", {"a": {"b": {"c": 1}}}),
        ('[{"a": 1}, {"a": 1, "a": 2}]', "1.a", [{"a": 1}, {"a": 1}]),
        ('{"x": {"a": 1, "a": 2}, "x": 3}', "x", {"x": {"a": 1}}),
        ('{"": 0, "": 0}', "", {"": 0}),
    ],
)
def test_a_key_that_stands_twice(text, key, value) -> None:
    with pytest.raises(RepeatedKeyError) as refused:
        loads_strict(text)
    assert refused.value.key == key
    assert refused.value.value == value
    assert str(refused.value) == f"`{key}` stands twice; remove one of the two"


def test_the_same_key_in_two_objects_is_no_fault() -> None:
    assert loads_strict('[{"a": 1, "b": {"a": 2}}, {"a": 1}]') == [{"a": 1, "b": {"a": 2}}, {"a": 1}]


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "[-1E400]", "1" * 5000, "[" * 100_000]
)
def test_numbers_that_are_none_and_nesting_too_deep(text) -> None:
    with pytest.raises(NOT_JSON):
        loads_strict(text)


def test_records_of_a_run_are_read_leniently(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": NaN}\n{"a": 1, "a": 2}\n{"a"\n[]\n')
    first, second = read_json_lines(path)
    assert first["a"] != first["a"] and second == {"a": 2}


@pytest.mark.parametrize("text", ["", "one", "zwölf ✓ 東\n", "a\r\nb\rc\n\n"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_text_with_and_without_a_mark(tmp_path, text, mark) -> None:
    path = tmp_path / "file"
    path.write_bytes(mark + text.encode())
    assert read_text(path) == text.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["{}", "name: value\n", "zwölf"])
def test_other_unicode_is_told_by_name(tmp_path, encoding, text) -> None:
    path = tmp_path / "file"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(EncodingError) as refused:
        read_text(path)
    assert str(refused.value) == f"it is {encoding[:6].upper()}; save it as UTF-8"


def test_latin_1_is_told_by_its_byte(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes("zwölf".encode("latin-1"))
    with pytest.raises(EncodingError, match=r"^it is not UTF-8 \(byte 0xf6\); save it as UTF-8$"):
        read_text(path)
