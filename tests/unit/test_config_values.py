"""What a value in a configuration means, from each source: numbers, text, lists, sections, and the rest refused."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xopd.config import Config, dump_config, known_fields, load_config
from xopd.config.fields import is_list
from xopd.config.yaml12 import write_yaml
from xopd.errors import UserError

REQUIRED = {"data": {"manifest": "items.jsonl"}, "student": {"path": "student"}, "teacher": {"path": "teacher"}}
SOURCES = ("file", "set", "section", "variable")


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Read a file that holds `fields`, values as they are written, with overrides and variables."""
    for name in list(os.environ):
        if name.startswith("XOPD_"):
            monkeypatch.delenv(name)

    def _load(fields: dict[str, str] | None = None, overrides: tuple[str, ...] = (), **variables: str) -> Config:
        tree = {section: dict(values) for section, values in REQUIRED.items()}
        for field, text in (fields or {}).items():
            section, _, name = field.partition(".")
            tree.setdefault(section, {})[name] = text
        lines = [f"{section}:\n" + "".join(f"  {k}: {v}\n" for k, v in own.items()) for section, own in tree.items()]
        path = tmp_path / "config.yaml"
        path.write_text("".join(lines), encoding="utf-8")
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            return load_config(path, overrides)

    return _load


@pytest.fixture
def read(load):
    """Read a configuration in which the setting `field`, written as `text`, comes from one of SOURCES."""

    def _read(field: str, text: str, source: str) -> Config:
        section, _, name = field.partition(".")
        if source == "file":
            return load({field: text})
        if source == "set":
            return load(overrides=(f"{field}={text}",))
        if source == "section":
            return load(overrides=(f"{section}={{{name}: {text}}}",))
        return load(**{f"XOPD_{section}__{name}".upper(): text})

    return _read


def value_of(config: Config, field: str) -> Any:
    section, _, name = field.partition(".")
    return getattr(getattr(config, section), "lambda_" if name == "lambda" else name)


def refused(read, field: str, text: str, source: str) -> str:
    with pytest.raises(UserError) as caught:
        read(field, text, source)
    sentence = str(caught.value)
    assert sentence.isprintable() and sentence.endswith(".")
    where = {"file": "config.yaml:", "set": "--set ", "section": "--set ", "variable": "environment variable XOPD_"}
    assert where[source] in sentence
    return sentence


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0100", 100), ("+100", 100), ("0o14", 12), ("0x1F", 31), ("1e3", 1000), ("1E+3", 1000), ("100.0", 100),
        ("9007199254740992.0", 2**53), ("9223372036854775807", 2**63 - 1),
    ],
)  # fmt: skip
def test_integers(read, text, value, source):
    found = read("run.steps", text, source).run.steps
    assert (found, type(found)) == (value, int)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "text",
    [
        "1:30", "190:20:30", "1_000", "1_0.0", "0b11", "true", "false", "yes", "on", "1.5", "1e-3", ".nan", ".inf",
        "-.inf", "1e400", "nan", "inf", "Infinity", "2024-01-01", "many", "0o8", "1e17", "9223372036854775808",
        "1" * 400, "1" * 5000, "-1", "0",
    ],
)  # fmt: skip
def test_what_is_no_number_of_steps(read, text, source):
    sentence = refused(read, "run.steps", text, source)
    assert len(sentence) < 400


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("text", "value"), [("1e-5", 1e-5), ("1", 1.0), ("0100", 100.0), (".5", 0.5), ("0x10", 16.0)])
def test_numbers(read, text, value, source):
    found = read("optimiser.learning_rate", text, source).optimiser.learning_rate
    assert (found, type(found)) == (value, float)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "text", ["true", "1:30", "1_0", ".nan", ".inf", "1e400", "nan", "Infinity", "yes", "1" * 400, "1" * 5000, "0"]
)
def test_what_is_no_learning_rate(read, text, source):
    refused(read, "optimiser.learning_rate", text, source)


def numbers_in(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return isinstance(get_args(annotation)[0], int)
    inner = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return annotation in (int, float) or any(numbers_in(each) for each in inner)


NUMBER_SETTINGS = [".".join(path) for path, info in known_fields().items() if numbers_in(info.annotation)]


def test_the_settings_that_are_numbers_are_found():
    wanted = ("run.steps", "objective.lambda", "objective.advantage_clamp", "optimiser.betas", "trainer.max_policy_lag")
    assert set(wanted) <= set(NUMBER_SETTINGS)
    assert "run.name" not in NUMBER_SETTINGS
    assert len(NUMBER_SETTINGS) > 50


@pytest.mark.parametrize("field", NUMBER_SETTINGS)
@pytest.mark.parametrize("value", ["true", ".nan", "'1_0'", "1:30"])
def test_no_number_setting_takes_what_is_none(read, field, value):
    """Whoever adds a setting has these rules for it."""
    path = tuple(field.split("."))
    text = f"[{value}, {value}]" if is_list(known_fields()[path]) else value
    sentence = refused(read, field, text, "file")
    assert f"`{field}`" in sentence and ("number" in sentence or "integer" in sentence)


@pytest.mark.parametrize("field", ["objective.ratio_truncation", "optimiser.betas"])
def test_lists_of_numbers(read, field):
    assert value_of(read(field, "[0.1, 0o1]", "file"), field) == (0.1, 1.0)
    assert value_of(read(field, "['0.1', \"1e0\"]", "set"), field) == (0.1, 1.0)
    assert value_of(read(field, '["0.1", 1]', "variable"), field) == (0.1, 1.0)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "text", ["0100", "1e5", "0x1F", "1.50", "true", "False", "yes", "NO", "2024-01-01", "1_000", "0o14"]
)
def test_text_is_taken_as_it_is_written(read, text, source):
    assert read("run.name", text, source).run.name == text


@pytest.mark.parametrize("source", ["file", "set", "section"])
def test_lists_of_text_are_taken_as_they_are_written(read, source):
    endpoints = read("teacher.endpoints", "[0100, 1:30, 'a:1', true]", source).teacher.endpoints
    assert endpoints == ["0100", "1:30", "a:1", "true"]


@pytest.mark.parametrize("source", SOURCES)
def test_secrets_of_digits(read, source):
    if source in ("set", "section"):
        assert "command line" in refused(read, "security.token", "0123456789012345", source)
    else:
        token = read("security.token", "0123456789012345", source).security.token
        assert token is not None and token.get_secret_value() == "0123456789012345"


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("text", "value"),
    [*((w, True) for w in ("true", "yes", "on", "1", "True")), *((w, False) for w in ("false", "no", "off", "0"))],
)
def test_truth_values(read, text, value, source):
    assert read("run.deterministic", text, source).run.deterministic is value


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("text", ["2", "1:30", "maybe", "-1", "0.5"])
def test_what_is_neither_true_nor_false(read, text, source):
    assert "boolean" in refused(read, "run.deterministic", text, source)


HARD_TEXTS = (
    "0100", "1:30", "yes", "no", "on", "off", "y", "n", "true", "null", "~", "2024-01-01", "1e5", "1_000", "0o14",
    "0x1F", "1.5", ".inf", ".nan", "=", "<<", "- a", "a: b", "a #b", "#a", "'", '"', "{", "[a", "*a", "&a", "!a", "|",
    ">", "%a", "@a", "`a`", "a\nb", "a\tb", " a ", "é", "e\u0301", "😀", "\x85", "\u2028", "\ufeff", "\x7f", "\x1b[0m",
)  # fmt: skip


def assert_survives(load, tmp_path, values: dict[str, Any]) -> None:
    config = load(overrides=tuple(f"{name}={write_yaml(value)}" for name, value in values.items()))
    assert {name: value_of(config, name) for name in values} == values
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config), encoding="utf-8")
    assert load_config(again) == config


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_text_survives_the_run_folder(load, tmp_path, text):
    """RUN/config.yaml is read by every service of a run."""
    assert_survives(load, tmp_path, {"data.dev_split": text, "redis.prefix": text, "teacher.endpoints": [text, text]})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=20), rate=st.floats(1e-300, 1e300), clamp=st.none() | st.floats(1e-9, 1e9))
def test_any_value_survives_the_run_folder(load, tmp_path, text, rate, clamp):
    values = {"data.dev_split": text, "optimiser.learning_rate": rate, "objective.advantage_clamp": clamp}
    assert_survives(load, tmp_path, values)


def sentence_of(load, *arguments: Any, **variables: str) -> str:
    with pytest.raises(UserError) as caught:
        load(*arguments, **variables)
    sentence = str(caught.value)
    assert sentence.isprintable() and sentence.endswith(".") and len(sentence) < 500
    return sentence


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run={steps: 1, steps: 2}", "`steps` stands twice"),
        ("run={1: 2}", "has `1` for a key"),
        ("run={true: 2}", "has `true` for a key"),
        ("run={null: 2}", "has `null` for a key"),
        ("run={? [a] : 2}", "a list or mapping for a key"),
        ("run=&r {a: *r}", "contains itself"),
        ("run.name=a\x07", "control character U+0007"),
        ("run.name=[", "quote it"),
        ("run.name=1\n---\n2", "single document"),
        ("run.name=a #b", "would be a comment"),
        ("run.directory=#a", "would be a comment"),
        ("run.directory=!!binary aGk=", "tag:yaml.org,2002:binary"),
        ("run.directory=a: b", "`run.directory`: Input should be a valid string"),
        ("run.name=", "`run.name`: Input should be a valid string, not empty"),
        ("run=" + "[" * 5000, "deep"),
        ("run=", "`run` is a section"),
        ("run=5", "`run` is a section"),
        ("1=2", "`1` is not a setting"),
        (".".join("a" * 60) + "=1", "must have the form"),
        ("run.\x1b[31m=1", "\\x1b[31m"),
    ],
)
def test_mistaken_overrides(load, override, words):
    sentence = sentence_of(load, {}, (override,))
    assert words in sentence and sentence.startswith("--set ")


def test_of_two_overrides_the_later_wins_and_the_rest_stays(load):
    assert load({}, ("run.steps=1", "run.steps=2")).run.steps == 2
    for order in (("run={steps: 6, seed: 1}", "run.seed=2"), ("run.steps=6", "run={seed: 2}")):
        run = load({"run.keep_checkpoints": "3"}, order).run
        assert (run.steps, run.seed, run.keep_checkpoints) == (6, 2, 3)
    assert load({}, ("run={steps: 6}", "run={steps: 7}")).run.steps == 7


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("XOPD_RUN", '{"steps": 1, "steps": 2}', "`steps` stands twice"),
        ("XOPD_RUN", '{"a": [{"b": 1, "b": 2}]}', "`a.0.b` stands twice"),
        ("XOPD_RUN", '{"steps": true}', "`run.steps`: must be an integer, not true"),
        ("XOPD_RUN", '{"steps": "1_0"}', "`run.steps`: must be an integer"),
        ("XOPD_RUN", '{"steps": NaN}', "is not valid JSON"),
        ("XOPD_RUN", '{"stall_timeout_s": Infinity}', "is not valid JSON"),
        ("XOPD_RUN", '{"steps": 0100}', "is not valid JSON"),
        ("XOPD_RUN", '{"name": 5}', "`run.name` is text"),
        ("XOPD_RUN", '{"stepz": 5}', "did you mean `steps`"),
        ("XOPD_RUN", "5", "`run` is a section"),
        ("XOPD_RUN", "", "is not valid JSON"),
        ("XOPD_RUN", "[" * 100_000, "nested too deep"),
        ("XOPD_RUN", '{"steps": ' + "1" * 5000 + "}", "is not valid JSON"),
        ("XOPD_TEACHER__ENDPOINTS", "a:1", "must be JSON"),
        ("XOPD_TEACHER__ENDPOINTS", '[{"a": 1, "a": 2}]', "`0.a` stands twice"),
        ("XOPD_OBJECTIVE__RATIO_TRUNCATION", "[0.2, true]", "must be a number"),
        ("XOPD_OBJECTIVE__RATIO_TRUNCATION", "0.2,5", "must be JSON"),
    ],
)
def test_mistaken_json_in_variables(load, name, text, words):
    sentence = sentence_of(load, {"run.name": "x"}, **{name: text})
    assert words in sentence and sentence.startswith(f"environment variable {name}: ")


def test_json_in_variables(load):
    config = load({"run.name": "x"}, XOPD_RUN='{"steps": 1e3, "seed": "0100"}', XOPD_RUN__SEED="7")
    assert (config.run.steps, config.run.seed, config.run.name) == (1000, 7, "x")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("1: x\n", "config.yaml:1: has `1` for a key"),
        ("data: {}\ntrue: x\n", "config.yaml:2: has `true` for a key"),
        ("data: {}\nnull: x\n", "config.yaml:2: has `null` for a key"),
        ("? [a]\n: x\n", "config.yaml:1: has a list or mapping for a key"),
        ("data:\n  1: x\n", "config.yaml:2: has `1` for a key"),
        ("run: &r {a: *r}\n", "config.yaml:1: holds a list or mapping that contains itself"),
        ("run: {name: \x07}\n", "config.yaml:1: holds the control character U+0007"),
        ("- a\n", "config.yaml:1: must hold sections"),
        ("a\n", "config.yaml:1: must hold sections"),
        ("5\n", "config.yaml:1: must hold sections"),
        ("", "config.yaml:1: must hold sections"),
        ("# nothing\n", "config.yaml:1: must hold sections"),
        ("run: {}\n---\nrun: {}\n", "config.yaml:2: is not valid YAML"),
        ("run: " + "[" * 100_000, "config.yaml:1: is nested more than 50 deep"),
        ("run: {steps: 1,\n  steps: 2}\n", "config.yaml:2: `run.steps` stands here and on line 1"),
        ("teacher: {path: x, endpoints: [a,\n {b: 1}]}\n", "config.yaml:2: `teacher.endpoints`"),
        ("run:\n", "config.yaml:1: `run` is a section"),
        ("run.steps: 5\n", "config.yaml:1: `run.steps` in one word is only for --set; write `run: {steps: …}`"),
        ('"\\e[31m": 1\n', "config.yaml:1: `\\x1b[31m` is not a setting"),
        ("run: {steps: " + "1" * 400 + "}\n", "config.yaml:1: `run.steps`: must be an integer of 64 bits"),
        ("run: {seed: 4294967296}\n", "config.yaml:1: `run.seed`: Input should be less than or equal to 4294967295"),
    ],
)
def test_mistaken_files(tmp_path, load, data, words):
    load()
    path = tmp_path / "config.yaml"
    required = "student: {path: s}\nteacher: {path: t}\ndata: {manifest: m}\n"
    lacking = [line for line in required.splitlines() if f"{line.partition(':')[0]}:" not in data]
    path.write_text(data + "\n".join(lacking if "is a section" in words or "`" in words else []))
    assert words in sentence_of(lambda: load_config(path))


def test_a_file_with_a_mark_and_other_line_ends(tmp_path, load):
    load()
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"run:\r\n  steps: 0100\r\n")
    assert load_config(path).run.steps == 100
