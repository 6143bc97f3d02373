"""The ledger's states, one by one: what may be written, what must not, and what a restart takes back."""

import numpy as np
import pytest

from xopd.ledger import GENESIS, Ledger, LedgerError, TrainedGroup, group_content, ledger_path, step_content


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(ledger_path(tmp_path))
    opened.begin_life("life-1", 0)
    yield opened
    opened.close()


def group(name, sampled=True, token=1):
    tokens = np.array([token, 2])
    behaviour = np.array([-0.5, -0.25], dtype=np.float32) if sampled else None
    return TrainedGroup(name, group_content(name, [(tokens, behaviour)]), 4, sampled)


def take(ledger, step, *names):
    ledger.dispatched(step, dict.fromkeys(names, 4))
    return ledger.trained(step, [group(name) for name in names], 0)


def test_a_step_from_dispatch_to_its_books(ledger):
    ledger.dispatched(1, {"a": 4, "b": 4})
    assert ledger.accounts.under_way == 8
    ledger.sent_again(["a"], "stale", "the wrong version", responses=4)
    ledger.dropped("a", "duplicate", 4, "answered")
    ledger.dead_lettered("b", "no audio")
    content = ledger.trained(1, [group("a")], 0)
    assert content == step_content(GENESIS, 1, {"a": group("a").content})
    counts = ledger.accounts.as_json()
    assert counts == {
        "dispatched": 8, "trained": 4, "given_up": 4, "under_way": 0, "lost": 0, "duplicates_dropped": 4,
        "stale_dropped": 4, "redispatched": 1, "undone": 0, "policy_lag_max": 0,
    }  # fmt: skip


def test_the_file_has_what_memory_has(ledger, tmp_path):
    take(ledger, 1, "a", "b")
    ledger.dispatched(2, {"c": 4})
    ledger.sent_again(["c"], "overdue", "silent")
    ledger.dropped("a", "duplicate", 4, "answered")
    again = Ledger(ledger_path(tmp_path))
    assert again.accounts == ledger.accounts
    again.close()


def test_nothing_is_trained_twice(ledger):
    take(ledger, 1, "a")
    with pytest.raises(LedgerError, match="newest step is 1"):
        ledger.trained(1, [group("a")], 0)
    with pytest.raises(LedgerError, match="it is trained"):
        ledger.trained(2, [group("a")], 0)
    with pytest.raises(LedgerError, match="dispatched before"):
        ledger.dispatched(2, {"a": 4})
    assert ledger.newest_step == 1


def test_what_was_given_up_or_never_sent_is_not_trained(ledger):
    ledger.dispatched(1, {"a": 4})
    ledger.dead_lettered("a", "no audio")
    with pytest.raises(LedgerError, match="it is dead"):
        ledger.trained(1, [group("a")], 0)
    with pytest.raises(LedgerError, match="it is unknown"):
        ledger.trained(1, [group("never sent")], 0)
    for action in (lambda: ledger.dead_lettered("a", "again"), lambda: ledger.sent_again(["a"], "stale", "")):
        with pytest.raises(LedgerError, match="not under way"):
            action()


def test_a_refused_step_leaves_the_books_as_they_were(ledger):
    ledger.dispatched(1, {"a": 4, "b": 4})
    before = ledger.accounts.as_json()
    with pytest.raises(LedgerError):
        ledger.trained(1, [group("a"), group("stranger")], 0)
    assert ledger.accounts.as_json() == before
    assert ledger.newest_step == 0


def test_a_step_out_of_order_is_refused(ledger):
    ledger.dispatched(2, {"a": 4})
    with pytest.raises(LedgerError, match="step 2 cannot be taken"):
        ledger.trained(2, [group("a")], 0)


def test_supplied_responses_are_trained_without_a_dispatch(ledger):
    ledger.trained(1, [group("a", sampled=False)], 0)
    assert ledger.accounts.dispatched == ledger.accounts.trained == 0
    with pytest.raises(LedgerError, match="it is trained"):
        ledger.trained(2, [group("a", sampled=False)], 0)


def test_a_group_forgotten_by_its_step_is_lost(ledger):
    ledger.dispatched(1, {"a": 4, "b": 4})
    ledger.trained(1, [group("a")], 0)
    assert ledger.accounts.lost == 4
    assert ledger.accounts.under_way == 0


def test_a_skipped_step_gives_its_groups_up(ledger):
    ledger.dispatched(1, {"a": 4})
    ledger.skipped(1, [group("a")], "not finite")
    assert ledger.accounts.given_up == 4
    take(ledger, 2, "b")
    assert ledger.newest_step == 2


def test_a_restart_takes_back_what_no_checkpoint_holds(ledger):
    first = take(ledger, 1, "a")
    take(ledger, 2, "b")
    ledger.dispatched(3, {"c": 4})
    ledger.begin_life("life-2", 1)
    assert ledger.newest_step == 1
    assert ledger.content_of(1) == first
    assert ledger.accounts.undone == 8
    assert ledger.accounts.dispatched == ledger.accounts.trained == 4
    take(ledger, 2, "b")  # the same group again: its first training counts no more
    assert ledger.accounts.trained == 8


def test_the_same_responses_give_the_same_content_and_others_do_not(ledger):
    first = take(ledger, 1, "a", "b")
    ledger.begin_life("life-2", 0)
    assert take(ledger, 1, "b", "a") == first
    ledger.begin_life("life-3", 0)
    ledger.dispatched(1, {"a": 4, "b": 4})
    assert ledger.trained(1, [group("a"), group("b", token=7)], 0) != first


def test_a_life_must_go_on_from_a_known_step(ledger):
    with pytest.raises(LedgerError, match="knows no step 5"):
        ledger.begin_life("life-2", 5)
    with pytest.raises(LedgerError, match="used before"):
        ledger.begin_life("life-1", 0)


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 100])
def test_a_file_that_is_no_ledger(tmp_path, damage):
    path = ledger_path(tmp_path)
    ledger = Ledger(path)
    ledger.close()
    path.write_bytes(path.read_bytes()[:100] + damage)
    with pytest.raises(LedgerError, match="cannot be used as a ledger"):
        Ledger(path).begin_life("life-1", 0)


def test_a_step_costs_the_same_however_long_the_run(ledger):
    """What is asked at each step never reads all groups: only the open ones, by an index of their own."""
    asked: list[str] = []
    ledger._database.set_trace_callback(asked.append)
    take(ledger, 1, "a", "b")
    ledger._database.set_trace_callback(None)
    queries = [query for query in asked if query.startswith(("SELECT", "UPDATE"))]
    assert len(queries) > 4
    for query in queries:
        plan = [str(row[3]) for row in ledger._database.execute(f"EXPLAIN QUERY PLAN {query}")]
        for line in plan:
            assert "SCAN groups" not in line and "SCAN steps" not in line, query
            assert "groups_of_step" not in line, query
