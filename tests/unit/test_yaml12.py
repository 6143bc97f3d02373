"""YAML as users write it: the core rules of 1.2 against a table, everything else one sentence with its line."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from xopd.config.yaml12 import MAX_DEPTH, MAX_VALUES, YamlError, number_in, read_yaml, read_yaml_file, write_yaml
from xopd.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

NUMBERS = {
    "0": 0, "100": 100, "0100": 100, "-0100": -100, "+12": 12, "08": 8, "-0": 0, "00": 0,
    "0o14": 12, "0o0": 0, "0x1F": 31, "0xff": 255, "0xFF": 255,
    "1.5": 1.5, "-1.5": -1.5, "1.": 1.0, ".5": 0.5, "+.5": 0.5, "0.10": 0.1, "010.5": 10.5,
    "1e-5": 1e-5, "1e5": 1e5, "1E5": 1e5, "1e+5": 1e5, "1.5e3": 1500.0, ".5e1": 5.0, "01e2": 100.0,
    ".inf": math.inf, "-.inf": -math.inf, "+.INF": math.inf, ".Inf": math.inf, "1e400": math.inf,
}  # fmt: skip
TEXTS = (
    "1:30", "190:20:30", "1:30.5", "1_000", "1_0.5", "0b11", "0b1_0", "-0o14", "0o8", "0o", "0x", "0xG", "+0x1F",
    "0_1", "1e", "e5", "1e5.5", ".", "-.", "--1", "1-", "1.2.3", ".e5", "inf", "nan", "NaN", "Infinity", "-inf",
    ".iNF", ".nAn", "-.nan", "2024-01-01", "2024-01-01 10:20:30", "2001-12-14t21:59:43.10-05:00", "yes", "no", "Yes",
    "NO", "on", "off", "On", "OFF", "y", "n", "Y", "N", "tRue", "nUll", "None", "none", "=", "<<", "１００",
)  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers(text):
    for value in (read_yaml(text).value, read_yaml(f"a: {text}").value["a"], read_yaml(f"[{text}]").value[0]):
        assert (value, type(value)) == (NUMBERS[text], type(NUMBERS[text]))
    assert (number_in(text), number_in(f" {text}\n")) == (NUMBERS[text], NUMBERS[text])


@pytest.mark.parametrize("text", TEXTS)
def test_what_looks_like_a_number_a_date_or_a_truth_value_is_text(text):
    assert read_yaml(f"a: {text}").value == {"a": text}
    assert read_yaml(f'a: "{text}"').value == {"a": text}
    assert number_in(text) is None


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan(text):
    assert math.isnan(read_yaml(text).value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, None) for word in ("null", "Null", "NULL", "~", "")),
    ],
)
def test_truth_values_and_nothing(text, value):
    assert read_yaml(f"a: {text}").value == {"a": value}
    assert read_yaml(f"a: '{text}'").value == {"a": text}


@pytest.mark.parametrize("number", list(NUMBERS))
def test_where_text_belongs_it_is_taken_as_written(number):
    document = read_yaml(f"a: {number}\nb: {number}\nc: [x, {number}]\nd: ~", lambda path: path in (("a",), ("c", "1")))
    assert document.value == {"a": number, "b": NUMBERS[number], "c": ["x", number], "d": None}


def test_lines_of_keys_and_elements():
    text = "base: &b {x: 1,\n  y: 2}\nc:\n  x: 3\n  <<: *b\nd:\n- e\n- f: 1\n"
    document = read_yaml(text)
    assert document.value == {"base": {"x": 1, "y": 2}, "c": {"x": 3, "y": 2}, "d": ["e", {"f": 1}]}
    assert {".".join(path): line for path, line in document.lines.items()} == {
        "base": 1, "base.x": 1, "base.y": 2, "c": 3, "c.x": 4, "c.y": 2, "d": 6, "d.0": 7, "d.1": 8, "d.1.f": 8,
    }  # fmt: skip


def test_what_merges_and_what_wins():
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], y: 3}\nd: {y: 4, <<: *a}\n"
    value = read_yaml(text).value
    assert value["c"] == {"x": 1, "y": 3, "z": 2}
    assert value["d"] == {"x": 1, "y": 4}


def test_what_follows_the_value():
    assert read_yaml("a # b").rest == "# b"
    assert read_yaml("#x").rest == "#x"
    assert read_yaml("'a # b'").rest == read_yaml("a#b").rest == ""


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\n1: x", 2, "has `1` for a key"),
        ("true: x", 1, "has `true` for a key"),
        ("null: x", 1, "has `null` for a key"),
        ("~: x", 1, "has `~` for a key"),
        ("? \n: x", 1, "has `` for a key"),
        ("1.5: x", 1, "has `1.5` for a key"),
        ("? [a]\n: x", 1, "a list or mapping for a key"),
        ("? {a: b}\n: x", 1, "a list or mapping for a key"),
        ("a:\n  2: x", 2, "has `2` for a key"),
        ("a:\n- {3: x}", 2, "has `3` for a key"),
        ("!!int a: x", 1, "has `a` for a key"),
        ("a: {b: 1, b: 2}", 1, "`a.b` stands twice"),
        ("a: 1\nb: 2\na: 3", 3, "`a` stands here and on line 1"),
        ("a: [{b: 1,\n b: 2}]", 2, "`a.0.b` stands here and on line 1"),
        ("a: &x {b: 1}\nc: {<<: *x, <<: *x}", 2, "`c.<<` stands twice"),
        ("a: {<<: 1}", 1, "merges mappings only"),
        ("a: {<<: [{b: 1}, 2]}", 1, "merges mappings only"),
        ("x: 1\nrun: &r {a: *r}", 2, "contains itself"),
        ("&r [*r]", 1, "contains itself"),
        ("a: &r {<<: *r}", 1, "contains itself"),
        ("a: *nope", 1, "undefined alias 'nope'"),
        ("x: 1\na: \x07", 2, "control character U+0007"),
        ("a: \x00", 1, "control character U+0000"),
        ("a: \x1b[31m", 1, "control character U+001B"),
        ("a: 1\n---\nb: 2", 2, "single document"),
        ("a: [1", 1, "flow sequence"),
        ("a: 'x", 1, "unexpected end of stream"),
        ("a:\n\tb: 1", 2, "cannot start any token"),
        ("a: b: c", 1, "not allowed here"),
        ('a: "\\UFFFFFFFF"', None, "is not valid YAML"),
        ("a: !!int x", 1, "tag:yaml.org,2002:int"),
        ("a: !!int 1.5", 1, "tag:yaml.org,2002:int"),
        ("a: !!float x", 1, "tag:yaml.org,2002:float"),
        ("a: !!bool yes", 1, "tag:yaml.org,2002:bool"),
        ("a: !!null x", 1, "tag:yaml.org,2002:null"),
        ("a: !!map [x]", 1, "tag:yaml.org,2002:map"),
        ("a: !!seq {x: 1}", 1, "tag:yaml.org,2002:seq"),
        ("a: !!set {x}", 1, "tag:yaml.org,2002:set"),
        ("a: !!omap [x: 1]", 1, "tag:yaml.org,2002:omap"),
        ("a: !!timestamp 2024-01-01", 1, "tag:yaml.org,2002:timestamp"),
        ("a: !!binary aGk=", 1, "tag:yaml.org,2002:binary"),
        ("a: !!python/object/apply:os.system [ls]", 1, "tag:yaml.org,2002:python"),
        ("a: !own x", 1, "the tag !own"),
        ("a: " + "1" * 5000, 1, "5,000 digits"),
        ("a: 1\nb: " + "[" * 100_000, 2, f"more than {MAX_DEPTH} deep"),
        ("- " * 200 + "x", 1, f"more than {MAX_DEPTH} deep"),
        ("a: 1\n" + "#" * 1_000_000, None, "more than 1,000,000 characters"),
    ],
)  # fmt: skip
def test_mistakes(text, line, words):
    with pytest.raises(YamlError) as caught:
        read_yaml(text)
    assert words in caught.value.problem
    assert caught.value.line == line
    assert caught.value.problem.isprintable() and len(caught.value.problem) < 300


def test_tags_that_say_what_is_so_are_taken():
    assert read_yaml("[!!str 0100, !!int 0100, !!float 3, !!bool TRUE, !!null ~]").value == [
        "0100", 100, 3.0, True, None,
    ]  # fmt: skip


@pytest.mark.parametrize("merged", [False, True])
def test_aliases_that_expand_hugely(merged):
    first = "k0: &k0 {x: 1}\n" if merged else "k0: &k0 [x, x]\n"
    body = "{{<<: [*k{0}, *k{0}]}}" if merged else "[*k{0}, *k{0}]"
    text = first + "".join(f"k{i}: &k{i} {body.format(i - 1)}\n" for i in range(1, 45))
    with pytest.raises(YamlError, match=f"more than {MAX_VALUES:,} values"):
        read_yaml(text)


def test_aliases_that_nest_deeply():
    nest = MAX_DEPTH - 10
    text = "k0: &k0 x\n" + "".join(f"k{i}: &k{i} {'[' * nest}*k{i - 1}{']' * nest}\n" for i in range(1, 60))
    with pytest.raises(YamlError, match=f"more than {MAX_DEPTH} deep"):
        read_yaml(text)


def test_the_deepest_that_is_taken():
    assert read_yaml("[" * (MAX_DEPTH - 1) + "x" + "]" * (MAX_DEPTH - 1)).value
    with pytest.raises(YamlError):
        read_yaml("[" * MAX_DEPTH + "x" + "]" * MAX_DEPTH)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(
        [*NUMBERS, *TEXTS, "true", "~", "null", "", "- a", "a: b", "#a", "a #b", "'", '"', "\x85", "\u2028"]
    )
)
TREES = st.recursive(SCALARS, lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3))


@settings(max_examples=300, deadline=None)
@given(tree=st.dictionaries(st.text(), TREES, max_size=4))
def test_what_is_written_is_read_back_by_both_versions(tree):
    written = write_yaml(tree)
    assert read_yaml(written).value == tree
    assert yaml.safe_load(written) == tree


@settings(max_examples=500, deadline=None)
@given(text=st.text(st.sampled_from("ab01:{}[],&*!|>%@`'\"#?-<=~. \n\t\\xuU_é\ufeff\x85\u2028\ud800"), max_size=40))
def test_any_text_is_a_document_or_one_sentence(text):
    problem = ""
    try:
        read_yaml(text)
    except YamlError as error:
        problem = error.problem
    assert problem.isprintable()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a: \xff", "it is not UTF-8"),
        ("a: b".encode("utf-16"), "it is UTF-16"),
        (b"a: 1\na: 2\n", ":2: `a` stands here and on line 1"),
        (b"a: 1\r\na: 2\r\n", ":2: `a` stands here and on line 1"),
        (b"\xef\xbb\xbfa: [", ":1: is not valid YAML"),
    ],
)
def test_files(tmp_path, data, words):
    path = tmp_path / "a.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_yaml_file(path, "file")
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfa: 1\r\nb: x\r\n", b"a: 1\rb: x\r", b"---\na: 1\nb: x\n...\n"])
def test_files_of_other_systems(tmp_path, data):
    path = tmp_path / "a.yaml"
    path.write_bytes(data)
    assert read_yaml_file(path, "file").value == {"a": 1, "b": "x"}


def test_a_file_without_end():
    with pytest.raises(UserError, match="more than 4,000,000 bytes"):
        read_yaml_file(Path("/dev/zero"), "file")


@pytest.mark.parametrize("folder", ["xopd", "services"])
def test_nothing_else_reads_yaml(folder):
    """PyYAML's own rules must not come in another way."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / folder).rglob("*.py")
        if path != ROOT / "xopd" / "config" / "yaml12.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name == "yaml" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "yaml")
    ]
    assert found == []
