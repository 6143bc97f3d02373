"""Tables and the report page, from a run folder as a trainer leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.html_checks import assert_ids_do_not_collide, assert_needs_no_network
from tests.unit.synthetic_run import write_run
from xopd.errors import UserError
from xopd.local.finish import print_summary
from xopd.report.charts import gap_figure
from xopd.report.records import Summary, read_run, read_summary
from xopd.report.run import build_report, scores_table
from xopd.report.tables import markdown


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", steps=60)


@pytest.fixture(scope="module")
def page(folder):
    return build_report(folder).read_text()


def test_a_run_is_read_whole_but_for_its_torn_line(folder):
    run = read_run(folder)
    assert [record.step for record in run.steps] == list(range(1, 61))
    assert [(record.split, record.step) for record in run.evals] == [
        ("dev", 50),
        ("dev", 60),
        ("test", 0),
        ("test", 60),
    ]
    assert run.summary is not None
    assert run.events[0].event == "resumed"


def test_steps_taken_twice_count_once_and_the_later_wins(tmp_path):
    folder = write_run(tmp_path / "run", steps=5, finished=False)
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    (folder / "metrics.jsonl").write_text(json.dumps(first) + "\n" + json.dumps({**first, "loss": 9.0}) + "\n")
    assert [record.loss for record in read_run(folder).steps] == [9.0]


def test_drop_is_relative_to_the_text_only_teacher(folder):
    summary = read_summary(folder / "summary.json")
    teacher, *students = scores_table(summary).rows
    for row in students:
        assert [drop.mean for drop in row.values[-2:]] == pytest.approx(list(summary.drop[row.name].values()))
    assert [row.name for row in students] == ["base", "final"]
    assert teacher.values[-2:] == (None, None)


def test_the_markdown_table(folder):
    table = markdown(scores_table(read_summary(folder / "summary.json"))).splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert table[0] == "|  | Speech (%) | Text (%) | Retention (%) | Drop speech (%) | Drop text (%) |"
    assert table[-1].startswith("| final student | 78.2 [74.2, 82.2] |")
    assert table[-1].endswith("| 19.4 | 1.8 |")


def test_the_outcome_fits_eighty_columns(folder):
    console = Console(width=80, record=True, force_terminal=False)
    print_summary(console, read_summary(folder / "summary.json"))
    text = console.export_text()
    assert "…" not in text
    for needed in ("35.2 % → 78.2 %", "70 % of the gap", "teacher, text", "rollout", "dispatched"):
        assert needed in text.replace("\n", " ")


def test_a_gap_that_may_be_chance_has_no_share(tmp_path):
    folder = write_run(tmp_path / "run", steps=5)
    path = folder / "summary.json"
    gap = {"mean_difference": 0.013, "n": 400, "ci95": [-0.009, 0.035]}
    path.write_text(json.dumps({**json.loads(path.read_text()), "gap_closed": None, "gap": gap}))
    why = "he gap to the text-only teacher, 1.3 points at first (95 % interval −0.9 to 3.5), may be chance"
    console = Console(width=80, record=True, force_terminal=False)
    print_summary(console, read_summary(path))
    assert f"35.2 % → 78.2 %; t{why}" in " ".join(console.export_text().split())
    shown = build_report(folder).read_text()
    assert f"T{why}" in shown and "% of the gap" not in shown


def test_the_page_needs_no_network(page):
    assert_needs_no_network(page)


def test_ids_of_the_drawings_do_not_collide(page):
    assert_ids_do_not_collide(page)


def test_the_page_tells_the_outcome(page):
    for needed in (
        "35.2 % → 78.2 %",
        "70 % of the gap",
        "+39.0 to +47.0",
        "paired bootstrap",
        "information ceiling",
        "74.2 to 82.2, n = 400",
        "vllm 0.32.0",
        ">19.4",
        "duplicates dropped",
        "a &lt; b",
    ):
        assert needed in page
    assert page.count("<figure>") == 10


def test_an_unfinished_run_has_a_page(tmp_path):
    page = build_report(write_run(tmp_path / "run", steps=3, finished=False)).read_text()
    assert "Not finished: 3 steps so far" in page
    assert "<figure>" in page


def test_a_run_of_one_modality_has_a_page(tmp_path):
    folder = write_run(tmp_path / "run", steps=4)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
    for line in lines:
        if line["kind"] == "step":
            line["speech"] = line["loss_cross"] = None
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert build_report(folder).stat().st_size > 10_000


def test_a_sparse_summary_has_a_page(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"run_name": "x <y>", "teacher": {"text": None}, "steps": 2}))
    page = build_report(tmp_path).read_text()
    assert "x &lt;y&gt;" in page


def test_what_is_no_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no such run"):
        build_report(tmp_path / "none")
    with pytest.raises(UserError, match=r"neither metrics\.jsonl nor summary\.json"):
        build_report(tmp_path)
    (tmp_path / "summary.json").write_text('{"steps": "many"}')
    with pytest.raises(UserError, match="`steps`"):
        build_report(tmp_path)


@pytest.mark.parametrize(("teacher", "ceiling"), [(0.02, None), (0.99, 0.03), (0.05, 0.5), (0.99, None)])
def test_every_mark_lies_on_the_scale(teacher, ceiling):
    """Also those of a teacher, or a ceiling, below the student."""
    scores = {"speech": {"accuracy": 0.8, "n": 100}, "text": {"accuracy": 0.9, "n": 100}}
    summary = Summary.model_validate(
        {"base": scores, "final": scores, "teacher": {"text": {"accuracy": teacher, "n": 9}}}
    )
    [axes] = gap_figure(summary, ceiling).axes
    places = [float(x) for line in axes.lines for x in line.get_xdata()]
    assert {100 * teacher, 80.0, 90.0} <= set(places)
    assert ceiling is None or 100 * ceiling in places
    low, high = axes.get_xlim()
    assert low <= min(places) <= max(places) <= high


def test_what_is_no_answer_stands_below_the_table(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "summary.json"
    about = json.loads(path.read_text())
    about["base"]["speech"]["cut"] = 12
    about["base"]["text"]["cut"] = 1
    about["final"]["speech"]["unanswered"] = 3
    path.write_text(json.dumps(about))
    summary = read_summary(path)
    n = summary.base.speech.n
    assert list(scores_table(summary).notes) == [
        f"base student: cut off at evals.max_new_tokens, and so wrong: speech 12 of {n}, text 1 of {n}.",
        f"final student: missing, and so wrong: speech 3 of {n}.",
    ]
    assert "speech 12 of" in markdown(scores_table(summary))
    assert "speech 12 of" in build_report(folder).read_text()
