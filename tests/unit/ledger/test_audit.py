"""The audit believes nothing: whatever is changed behind the ledger's back does not close."""

import json
import sqlite3

import pytest
from typer.testing import CliRunner

from tests.unit.ledger.test_ledger import group, take
from xopd.cli.main import app
from xopd.errors import UserError
from xopd.ledger import Ledger, ledger_path
from xopd.ledger.audit import audit_run


@pytest.fixture
def run(tmp_path):
    """The folder of a run of three steps in two lives, one group dead-lettered, with two checkpoints."""
    ledger = Ledger(ledger_path(tmp_path))
    ledger.begin_life("life-1", 0)
    take(ledger, 1, "1a", "1b")
    take(ledger, 2, "2a", "2b")
    ledger.begin_life("life-2", 1)
    take(ledger, 2, "2a", "2b")
    ledger.dispatched(3, {"3a": 4, "3b": 4})
    ledger.sent_again(["3a"], "overdue", "silent")
    ledger.dead_lettered("3b", "clip 3b.flac is missing")
    ledger.trained(3, [group("3a")], 0)
    for step in (2, 3):
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        state = {"step": step, "state": {"content": ledger.content_of(step).hex()}}
        (folder / "state.json").write_text(json.dumps(state))
    ledger.close()
    return tmp_path


def change(run, *statements):
    with sqlite3.connect(ledger_path(run)) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def test_books_in_order(run):
    audit = audit_run(run)
    assert audit.closes, audit.findings
    assert (audit.dispatched, audit.trained, audit.dead, audit.open, audit.lost) == (6, 5, 1, 0, 0)
    assert (audit.lives, audit.steps, audit.undone) == (2, 3, 2)
    assert audit.sent_again == {"overdue": 1}
    assert audit.dead_reasons == {"clip 3b.flac is missing": 1}
    assert audit.checkpoints == [2, 3]


@pytest.mark.parametrize(
    ("statements", "finding"),
    [
        (["UPDATE groups SET outcome = 'open' WHERE group_id = '1a'"], "they are lost"),
        (["UPDATE groups SET content = x'00' WHERE group_id = '1a'"], "step 1 was not trained on the groups"),
        (["DELETE FROM groups WHERE group_id = '1a'"], "step 1 was not trained on the groups"),
        (["DROP INDEX one_outcome", "UPDATE groups SET outcome = 'trained', content = x'01' WHERE outcome = 'undone'"],
         "has 2 outcomes"),
        (["DELETE FROM steps WHERE step = 2"], "step 2 is missing"),
        (["UPDATE steps SET parent = x'00' WHERE step = 3"], "was not taken after"),
        (["UPDATE groups SET dispatches = 3 WHERE group_id = '3a'"], "was dispatched 3 times"),
        (["UPDATE steps SET content = x'00' WHERE step = 3 AND NOT undone"], "checkpoint step-00000003"),
        (["UPDATE groups SET life = 1 WHERE group_id = '3a'"], "which was not taken"),
    ],
)  # fmt: skip
def test_whatever_was_changed_is_found(run, statements, finding):
    change(run, *statements)
    audit = audit_run(run)
    assert not audit.closes
    assert any(finding in text for text in audit.findings), audit.findings


def test_a_summary_must_say_the_same(run):
    (run / "summary.json").write_text(json.dumps({"trajectories": {"trained": 19}}))
    assert audit_run(run).findings == ["summary.json has 19 trajectories trained, the ledger 20"]
    (run / "summary.json").write_text(json.dumps({"trajectories": {"trained": 20}}))
    assert audit_run(run).closes
    ledger = Ledger(ledger_path(run))
    ledger.begin_life("life-3", 3)
    ledger.dispatched(4, {"4a": 4})
    ledger.close()
    assert audit_run(run).findings == ["the run is finished, but 1 groups are under way"]


def test_the_command(run):
    runner = CliRunner()
    good = runner.invoke(app, ["audit", str(run)])
    assert good.exit_code == 0
    assert "0 lost, 0 trained twice" in good.output
    assert "clip 3b.flac is missing" in good.output
    change(run, "DELETE FROM steps WHERE step = 2")
    bad = runner.invoke(app, ["audit", str(run), "--json"])
    assert bad.exit_code == 1
    assert json.loads(bad.output)["closes"] is False


def test_no_ledger_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no ledger"):
        audit_run(tmp_path)
    ledger_path(tmp_path).write_text("hello")
    with pytest.raises(UserError, match="cannot be read as a ledger"):
        audit_run(tmp_path)
