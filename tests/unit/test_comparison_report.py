"""Tables in their formats, and the page of a comparison."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from rich.console import Console

from tests.unit.html_checks import assert_ids_do_not_collide, assert_needs_no_network
from tests.unit.synthetic_comparison import ENTRIES, write_comparison
from xopd.report.comparison.build import build_comparison
from xopd.report.tables import (
    Column,
    Interval,
    Number,
    Row,
    Table,
    csv_text,
    escape_latex,
    latex,
    markdown,
    rich_table,
    shown,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_comparison(write_comparison(tmp_path_factory.mktemp("comparison"), unfinished=[("gkd", 2)]))


@pytest.fixture(scope="module")
def page(built):
    return built.report.read_text()


def table_of(built, number):
    return next(table for table in built.tables if table.name == f"table{number}")


def test_which_entries_stand_in_which_table(built):
    names = {number: [row.name for row in table_of(built, number).rows] for number in (1, 2, 3)}
    assert names[1] == ["teacher", "base", "sft-foreign", "sft", "offline-kd", "gkd", "xopd"]
    assert names[2] == ["teacher", "base", "xopd", "text-only", "speech-only", "larger-teacher"]
    assert names[3] == ["base", *(entry["name"] for entry in ENTRIES)]


def test_rows_say_how_many_seeds_they_hold(built):
    rows = {row.name: row for row in table_of(built, 1).rows}
    assert rows["gkd"].values[1] == "2 of 3"
    assert rows["xopd"].values[1] == "3"
    assert "Not finished, and not counted: GKD, seed 2." in table_of(built, 1).notes


def test_the_papers_figures_stand_apart(built):
    columns = [column.key for column in table_of(built, 1).columns if column.paper]
    assert columns == ["paper_drop_speech", "paper_drop_text"]
    last = {row.name: [shown(value) for value in row.values[-2:]] for row in table_of(built, 1).rows}
    assert last["xopd"] == ["3.43", "0.97"]
    assert last["offline-kd"] == ["19.62", "15.02"]
    ablation = {row.name: shown(row.values[-2]) for row in table_of(built, 2).rows}
    assert ablation["text-only"] == "6.91"
    assert ablation["speech-only"] == "5.08"
    assert ablation["larger-teacher"] == "5.55"
    retention = {row.name: row.values[-1] for row in table_of(built, 3).rows}
    assert retention["xopd"] == "69.3 to 70.7"
    assert retention["text-only"] is None


def test_the_other_teacher_is_named(built):
    assert any("larger teacher: its own teacher scores" in note for note in table_of(built, 2).notes)


def test_csv_reads_back_to_the_figures(built):
    for table in built.tables:
        rows = list(csv.DictReader(io.StringIO((built.report.parent / f"{table.name}.csv").read_text())))
        assert [row["name"] for row in rows] == [row.name for row in table.rows]
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(csv_text(table_of(built, 1))))}
    score = built.figures.of("xopd").scores["speech"]
    assert float(rows["xopd"]["speech_mean"]) == pytest.approx(100 * score.mean)
    assert float(rows["xopd"]["speech_sd"]) == pytest.approx(100 * score.sd)
    assert rows["teacher"]["speech_mean"] == ""
    assert rows["sft"]["method"] == "SFT, own style"


def test_markdown_rows_are_of_equal_width(built):
    for table in built.tables:
        lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1
        assert len(lines) == len(table.rows) + 2
    assert built.markdown.read_text().count("### Table") == 3


def odd_table():
    columns = (Column("method", "A & B_1 (%)", "text"), Column("x", "λ ± 1", "spread"), Column("i", "~^", "interval"))
    rows = (
        Row("a", (r"100 % {of} $x$ #1 \end{table} a|b", Number(-0.04, 0.1, signed=True), Interval(-1.0, 2.0))),
        Row("b", ("plain", None, None)),
    )
    return Table(columns, rows, ("a note: 5 #",), "table9", "Odd & ends", "50 % of x_1 < y^2")


def test_latex_is_escaped_and_every_row_has_its_cells():
    text = latex(odd_table())
    body = re.search(r"\\toprule\n(.*)\\bottomrule", text, re.DOTALL).group(1)
    rows = [line.strip() for line in body.splitlines() if line.strip() not in ("", "\\midrule")]
    assert len(rows) == 3
    for row in rows:
        assert row.endswith(r"\\")
        assert len(re.findall(r"(?<!\\)&", row)) == 2
    bare = re.sub(r"\\[a-zA-Z]+(\{\})?|\\[%&#_{}$]|\$\\?[a-z]*-?\$", "", body.replace(r"\\", ""))
    assert not re.search(r"[%#_^~\\$±−λ]", bare)
    assert text.count(r"\end{table}") == 1
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"50 \% of x\_1 \textless{} y\textasciicircum{}2 a note: 5 \#" in text


def test_latex_of_a_real_comparison_has_only_what_pdflatex_knows(built):
    for table in built.tables:
        text = (built.report.parent / f"{table.name}.tex").read_text()
        assert text.isascii()
        assert len(re.findall(r"\\begin\{", text)) == len(re.findall(r"\\end\{", text)) == 2
    assert escape_latex("λ = 0.5") == r"$\lambda$ = 0.5"


def test_shown_values():
    assert shown(None) == "–"
    assert shown(Number(76.24, 1.26)) == "76.2 ± 1.3"
    assert shown(Number(-0.04, signed=True)) == "0.0"
    assert shown(Number(-3.2, 0.5, signed=True)) == "−3.2 ± 0.5"
    assert shown(Interval(-1.04, 2.4)) == "[−1.0, +2.4]"


def test_tables_fit_eighty_columns(built):
    console = Console(width=80, record=True, force_terminal=False, file=io.StringIO())
    for table in built.tables:
        console.print(rich_table(table))
    text = console.export_text()
    assert "…" not in text
    assert "3.43" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_the_summary_holds_the_numbers(built):
    summary = json.loads(built.summary.read_text())
    xopd = summary["entries"]["xopd"]
    assert xopd["n_seeds"] == 3
    assert len(xopd["scores"]["speech"]["values"]) == 3
    assert set(xopd["paired"]) == {"speech", "text", "retention"}
    assert xopd["gap_closed"]["mean"] == pytest.approx(built.figures.of("xopd").gap_closed.mean)
    assert summary["verdict"] == list(built.paragraphs)
    assert summary["entries"]["gkd"]["n_seeds"] == 2


def test_all_files_are_whole_and_nothing_partial_is_left(built):
    assert all(path.stat().st_size > 100 for path in (*built.table_files, built.markdown, built.summary))
    assert len(built.table_files) == 9
    assert not list(built.report.parent.glob(".*.part"))


def test_the_page_needs_no_network(page):
    assert_needs_no_network(page)


def test_ids_on_the_page_do_not_collide(page):
    assert_ids_do_not_collide(page)


def test_the_page_holds_what_a_reader_looks_for(page, built):
    for needed in ("Table 1", "Table 2", "Table 3", "How it went", "Learning rates", "seed 100", "5e-5", "2.5e-5"):
        assert needed in page
    assert "xopd compare examples/tiny/compare.yaml" in page
    assert page.count("<figure>") == 18
    for paragraph in built.paragraphs:
        assert paragraph[:60] in page


def test_labels_cannot_break_the_page(tmp_path):
    folder = write_comparison(tmp_path, seeds=[0], names=["xopd", "sft"])
    manifest = json.loads((folder / "comparison.json").read_text())
    manifest["entries"][0]["label"] = "<script>x & y</script>"
    (folder / "comparison.json").write_text(json.dumps(manifest))
    assert "<script>" not in build_comparison(folder).report.read_text()


def test_a_comparison_that_has_hardly_begun_has_a_page(tmp_path):
    skip = [(entry["name"], seed) for entry in ENTRIES for seed in range(3) if (entry["name"], seed) != ("sft", 0)]
    folder = write_comparison(tmp_path, skip=skip, unfinished=[("sft", 0)])
    page = build_comparison(folder).report.read_text()
    assert "nothing to conclude" in page
    manifest = json.loads((folder / "comparison.json").read_text())
    manifest["search"] = None
    (folder / "comparison.json").write_text(json.dumps(manifest))
    assert "No search was made" in build_comparison(folder).report.read_text()
