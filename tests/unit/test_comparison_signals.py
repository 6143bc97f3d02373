"""A supervised run, whose steps lack what only sampled responses have: read whole, and shown from its probes."""

from __future__ import annotations

import json

import pytest

from tests.unit.synthetic_comparison import write_cell
from xopd.report.records import ModalityStep, read_run
from xopd.report.run import build_report

SUPERVISED = {"advantage": None, "kl": None, "ratio": None, "nll": 1.2, "entropy": 0.4, "length": 9.0}


@pytest.fixture
def folder(tmp_path):
    write_cell(tmp_path, "sft", 0, dict.fromkeys(("speech", "text", "retention"), 0.5), steps=8)
    step = {"kind": "step", "time": 0.0, "loss": 1.2, "text": SUPERVISED, "speech": SUPERVISED}
    with (tmp_path / "metrics.jsonl").open("a") as file:
        for number in range(1, 9):
            file.write(json.dumps({**step, "step": number}) + "\n")
    return tmp_path


def test_records_of_supervised_methods_are_read(folder):
    run = read_run(folder)
    assert len(run.steps) == 8
    assert run.steps[0].speech.kl is None
    assert run.steps[0].text.nll == 1.2
    assert [probe.step for probe in run.probes] == [0, 2, 4, 6, 8]
    assert run.probes[0].speech.modality_gap == pytest.approx(0.9)
    assert ModalityStep.model_validate({}).advantage is None


def test_the_report_shows_the_probes_where_steps_have_nothing(folder):
    page = build_report(folder).read_text()
    for title in (
        "Distance to the teacher",
        "Advantage",
        "Distance between speech and text",
        "Agreement with the teacher: top tokens",
        "Agreement with the teacher: probability",
        "Likelihood of the targets",
        "Repetition",
    ):
        assert f"<h3>{title}</h3>" in page
    assert "Curves with marks are probes" in page


def test_a_step_that_has_a_signal_goes_before_the_probes(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if '"kind": "step"' in line]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    page = build_report(folder).read_text()
    assert "<h3>Distance to the teacher</h3>" not in page
    assert "Curves with marks are probes" not in page
    assert "<h3>Likelihood of the targets</h3>" in page
