"""Reading a configuration: the order of sources, and every mistake as one sentence that names its place."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from xopd.config import Config, dump_config, known_fields, load_config
from xopd.config.objective import METHODS, GkdSettings, MethodSettings, OfflineKdSettings, SftSettings, XopdSettings
from xopd.config.reference import reference_page
from xopd.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = """\
data:
  manifest: items.jsonl
student:
  path: student
teacher:
  path: teacher
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("XOPD_"):
            monkeypatch.delenv(name)

    def _write(text: str = MINIMAL) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return _write


def sentence_of(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_defaults(write):
    config = load_config(write())
    assert config.objective.lambda_ == 0.5
    assert config.objective.samples == 4
    assert config.trainer.max_policy_lag == 0
    assert config.redis.url is None


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("endpoint=collector:4317", "endpoint must be http://host:port"),
        ("endpoint=http://", "endpoint must be http://host:port"),
        ("endpoint=http://collector:port", "endpoint must be http://host:port"),
        ("endpoint=http://me:secret@collector:4317", "tokens go in OTEL_EXPORTER_OTLP_HEADERS"),
        ("endpoint=http://collector:4318/v1/traces", "set protocol to http"),
        ("sample_share=1.5", "less than or equal to 1"),
    ],
)
def test_a_receiver_of_traces_is_a_url_without_a_password(write, setting, words):
    sentence = sentence_of(write(), f"tracing.{setting}")
    assert words in sentence and "secret" not in sentence


def test_set_wins_over_environment_over_file(write, monkeypatch):
    path = write(MINIMAL + "run:\n  steps: 10\n  seed: 1\n  name: file\n")
    monkeypatch.setenv("XOPD_RUN__STEPS", "20")
    monkeypatch.setenv("XOPD_RUN__SEED", "2")
    config = load_config(path, ["run.steps=30", "objective.lambda=1", "teacher.endpoints=[a:1, b:2]"])
    assert (config.run.steps, config.run.seed, config.run.name) == (30, 2, "file")
    assert config.objective.lambda_ == 1.0
    assert config.teacher.endpoints == ["a:1", "b:2"]


def test_lists_in_the_environment_are_json(write, monkeypatch):
    monkeypatch.setenv("XOPD_TEACHER__ENDPOINTS", '["127.0.0.1:4000"]')
    assert load_config(write()).teacher.endpoints == ["127.0.0.1:4000"]


def test_lambda_from_the_environment(write, monkeypatch):
    monkeypatch.setenv("XOPD_OBJECTIVE__LAMBDA", "0.25")
    assert load_config(write()).objective.lambda_ == 0.25


def test_relative_paths_start_at_the_file(write, tmp_path):
    (tmp_path / "student").mkdir()
    config = load_config(write())
    assert config.student.path == str(tmp_path / "student")
    assert config.data.manifest == str(tmp_path / "items.jsonl")
    assert config.teacher.path == "teacher"  # not there: perhaps it is relative to the working folder


def test_a_dumped_configuration_reads_back_the_same(write, tmp_path):
    config = load_config(write(), ["objective.advantage_clamp=5", "objective.ratio_truncation=[0.2, 5]"])
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config


@pytest.mark.parametrize(
    ("extra", "override", "parts"),
    [
        ("objective:\n  lamda: 0.5\n", None, ["config.yaml:8", "`objective.lamda`", "did you mean `lambda`"]),
        ("objektive:\n  lambda: 0.5\n", None, ["config.yaml:7", "`objektive`", "did you mean `objective`"]),
        ("run:\n  zzzzzz: 1\n", None, ["config.yaml:8", "docs/CONFIG.md", "`run`"]),
        ("run:\n  steps: many\n", None, ["config.yaml:8", "`run.steps`", "integer", "'many'"]),
        ("run:\n  steps: 0\n", None, ["config.yaml:8", "`run.steps`", "greater than or equal to 1"]),
        ("objective:\n  lambda: 1.5\n", None, ["config.yaml:8", "`objective.lambda`", "less than or equal to 1"]),
        ("run:\n  name: ../x\n", None, ["config.yaml:8", "`run.name`"]),
        ("trainer:\n  max_policy_lag: 2\n", None, ["config.yaml:8", "`trainer.max_policy_lag`"]),
        ("run:\n  steps: 5\n  steps: 6\n", None, ["config.yaml:9", "`run.steps`", "line 8"]),
        ("run: {steps: 5\n", None, ["config.yaml:", "not valid YAML"]),
        ("sampling:\n  temperature: 0.7\n", None, ["sampling.temperature must be 1", "0.7"]),
        ("rollout:\n  max_model_len: 40\n", None, ["sampling.max_new_tokens (48)", "rollout.max_model_len"]),
        ("optimiser:\n  weight_decay: 0.1\n", None, ["config.yaml:7", "adamw"]),
        ("objective:\n  ratio_truncation: [5, 0.2]\n", None, ["config.yaml:7", "low < high"]),
        ("", "objective.lamda=0.5", ["--set objective.lamda", "did you mean `lambda`"]),
        ("", "run.steps=none", ["--set run.steps", "integer"]),
        ("", "run.steps", ["--set run.steps", "a.b=value"]),
        ("", "run..steps=3", ["--set run..steps=3", "a.b=value"]),
        ("", "run.name=[", ["--set run.name=[", "quote it"]),
    ],
)
def test_mistakes_name_their_place(write, extra, override, parts):
    sentence = sentence_of(write(MINIMAL + extra), *([override] if override else []))
    for part in parts:
        assert part in sentence


BFLOAT16 = ["student.dtype=bfloat16", "learner.master_dtype=bfloat16"]


def test_masters_are_float32_unless_set(write):
    config = load_config(write(), ["student.dtype=bfloat16", "optimiser.learning_rate=1e-6"])
    assert config.learner.master_dtype == "float32"


@pytest.mark.parametrize(("rate", "taken"), [("1e-6", False), ("6.1e-5", False), ("6.2e-5", True), ("3e-4", True)])
def test_bfloat16_masters_need_steps_that_are_not_rounded_away(write, rate, taken):
    settings = [*BFLOAT16, f"optimiser.learning_rate={rate}"]
    if taken:
        assert load_config(write(), settings).learner.master_dtype == "bfloat16"
        return
    assert sentence_of(write(), *settings).endswith(
        f"config.yaml: optimiser.learning_rate {float(rate):g} would train next to nothing with learner.master_dtype"
        " bfloat16: weights near 0.02 lie 1.2e-04 apart there, and an Adam step, about the learning rate, is rounded"
        " away below 6.1e-05; set learner.master_dtype to float32."
    )


def test_the_limit_is_where_torch_rounds_a_step_away():
    torch = pytest.importorskip("torch")
    weight, half = torch.tensor(0.02, dtype=torch.bfloat16), 2.0**-14
    assert weight - torch.tensor(0.99 * half, dtype=torch.bfloat16) == weight
    assert weight - torch.tensor(1.01 * half, dtype=torch.bfloat16) != weight


def test_masters_are_not_less_precise_than_the_student(write):
    sentence = sentence_of(write(), "learner.master_dtype=bfloat16")
    assert "set learner.master_dtype to float32, or student.dtype to bfloat16" in sentence


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({}, XopdSettings()),
        ({"objective.method": "gkd", "objective.beta": "0.5", "objective.top_k": "5"}, GkdSettings(top_k=5, beta=0.5)),
        ({"objective.method": "sft", "objective.target": "foreign"}, SftSettings(target="foreign")),
        ({"objective.method": "offline_kd", "objective.lambda": "1"}, OfflineKdSettings(lambda_=1.0)),
        # Other methods' options, set back: as in a comparison, and in the resolved configuration of an earlier run.
        ({"objective.method": "sft", "objective.advantage_clamp": "null", "objective.top_k": "64"}, SftSettings()),
        ({"objective.beta": "0.0", "objective.target": "response", "objective.on_policy_share": "1"}, XopdSettings()),
    ],
    ids=str,
)
@pytest.mark.parametrize("source", ["file", "variables", "--set"])
def test_a_method_has_its_own_settings(write, monkeypatch, source, given, settings):
    overrides, text = [], MINIMAL
    for name, value in given.items():
        if source == "variables" and value != "null":
            monkeypatch.setenv("XOPD_" + name.replace(".", "__").upper(), value)
        elif source == "--set" or source == "variables":
            overrides.append(f"{name}={value}")
        else:
            text += ("" if "objective:" in text else "objective:\n") + f"  {name.partition('.')[2]}: {value}\n"
    config = load_config(write(text), overrides)
    assert config.objective == settings
    assert type(config.objective) is type(settings)
    again = write(dump_config(config))
    assert load_config(again).objective == settings


@pytest.mark.parametrize(
    ("method", "option", "owners"),
    [
        ("gkd", "advantage_clamp=5", "xopd"),
        ("gkd", "ratio_mask=[0.1, 2]", "xopd"),
        ("gkd", "kl_estimator=full", "xopd"),
        ("sft", "top_k=5", "xopd and gkd"),
        ("xopd", "beta=0.5", "gkd"),
        ("xopd", "on_policy_share=0.5", "gkd"),
        ("offline_kd", "target=foreign", "gkd and sft"),
        ("sft", "teacher_temperature=1", "offline_kd"),
    ],
)
def test_an_option_of_another_method_is_rejected_where_it_stands(write, monkeypatch, method, option, owners):
    name, _, value = option.partition("=")
    words = f"`objective.{name}`: is not used by method {method}, only by {owners}; leave it out."
    path = write(MINIMAL + f"objective:\n  lambda: 0.5\n  {name}: {value}\n")
    assert sentence_of(path, f"objective.method={method}") == f"{path}:9: {words}"
    path = write(MINIMAL + f"objective:\n  method: {method}\n")
    assert sentence_of(path, f"objective.{option}") == f"--set objective.{name}: {words}"
    monkeypatch.setenv(variable := f"XOPD_OBJECTIVE__{name.upper()}", value)
    assert sentence_of(path) == f"environment variable {variable}: {words}"


@pytest.mark.parametrize("written", ["gdk", "GKD", "", "[gkd]", "null", "3"])
def test_an_unknown_method_is_told_the_known_ones(write, written):
    sentence = sentence_of(write(), f"objective.method={written}")
    assert sentence.startswith("--set objective.method: `objective.method`: must be xopd, gkd, sft or offline_kd")
    assert ("did you mean `gkd`?" in sentence) == (written == "gdk")


def test_a_mistaken_option_of_another_method_is_told_as_such(write):
    assert "`objective.beta`: must be a number" in sentence_of(write(), "objective.method=sft", "objective.beta=x")


@pytest.mark.parametrize("written", ["3", "[1]", "null", "gkd"])
def test_an_objective_that_is_no_section(write, written):
    assert "`objective` is a section" in sentence_of(write(), f"objective={written}")


def test_contradicting_overrides(write):
    assert "drop one" in sentence_of(write(), "run=3", "run.steps=4")


def test_missing_settings(write):
    sentence = sentence_of(write("data:\n  manifest: x\nteacher:\n  path: y\n"))
    assert "`student` is missing" in sentence


def test_a_mistaken_value_in_the_environment(write, monkeypatch):
    monkeypatch.setenv("XOPD_RUN__STEPS", "soon")
    sentence = sentence_of(write())
    assert "environment variable XOPD_RUN__STEPS" in sentence
    assert "integer" in sentence


def test_an_unknown_variable(write, monkeypatch):
    monkeypatch.setenv("XOPD_RUN__STEP", "5")
    sentence = sentence_of(write())
    assert "environment variable XOPD_RUN__STEP:" in sentence
    assert "did you mean `XOPD_RUN__STEPS`" in sentence


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_files_without_sections(write, text):
    assert "must hold sections" in sentence_of(write(text))


def test_files_that_cannot_be_read(tmp_path):
    assert "no such configuration file" in sentence_of(tmp_path / "none.yaml")
    assert "cannot be read" in sentence_of(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in sentence_of(tmp_path / "binary.yaml")


def test_the_committed_reference_is_current():
    page = (ROOT / "docs" / "CONFIG.md").read_text()
    assert page == reference_page(), "run `make docs`"


def test_every_setting_stands_in_the_reference_once():
    page = reference_page()
    for field in known_fields():
        # What several methods have stands in the table of each.
        methods = [m for m in METHODS.values() if field[0] == "objective" and field[1] in m.model_fields]
        common = field[1] in {"method", *MethodSettings.model_fields}
        times = 1 if common or not methods else len(methods)
        assert page.count(f"| `XOPD_{'__'.join(field).upper()}` |") == times, field
    assert len(re.findall("^### `method: ", page, re.MULTILINE)) == len(METHODS)
    for name in Config.model_fields:
        assert f"\n## `{name}`\n" in page


def test_the_reference_shows_defaults_that_are_valid_yaml():
    for match in re.finditer(r"^\| `(\w+)` \| [^|]+ \| `([^`]*)` \|", reference_page(), re.MULTILINE):
        yaml.safe_load(match.group(2))
