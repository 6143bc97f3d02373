"""The ledger against a model in plain Python, through random histories of dispatches, faults and restarts."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.ledger.test_ledger import group
from xopd.ledger import Ledger, LedgerError, ledger_path
from xopd.ledger.audit import audit_run


class Histories(RuleBasedStateMachine):
    """`outcome` is the model: what each group of a step that counts has come to."""

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(ledger_path(Path(self.folder.name)))
        self.ledger.begin_life("life-0", 0)
        self.lives, self.step = 1, 0
        self.outcome: dict[str, str] = {}
        self.contents = {0: self.ledger.content_of(0)}
        self.redispatched = self.duplicates = 0

    def of_outcome(self, wanted):
        return sorted(name for name, outcome in self.outcome.items() if outcome == wanted)

    @precondition(lambda self: not self.of_outcome("open"))
    @rule(n=strategies.integers(1, 4))
    def dispatch(self, n):
        names = [f"{self.step + 1}-{index}" for index in range(n)]
        names = [name for name in names if name not in self.outcome]
        self.ledger.dispatched(self.step + 1, dict.fromkeys(names, 4))
        self.outcome |= dict.fromkeys(names, "open")

    @precondition(lambda self: self.of_outcome("open"))
    @rule(data=strategies.data(), kind=strategies.sampled_from(["stale", "failed", "overdue", "forgotten"]))
    def send_again(self, data, kind):
        chosen = data.draw(strategies.lists(strategies.sampled_from(self.of_outcome("open")), unique=True))
        self.ledger.sent_again(chosen, kind, "because")
        self.redispatched += len(chosen)

    @precondition(lambda self: self.of_outcome("open"))
    @rule(data=strategies.data())
    def dead_letter(self, data):
        name = data.draw(strategies.sampled_from(self.of_outcome("open")))
        self.ledger.dead_lettered(name, "no audio")
        self.outcome[name] = "dead"

    @precondition(lambda self: self.outcome)
    @rule(data=strategies.data())
    def duplicate(self, data):
        self.ledger.dropped(data.draw(strategies.sampled_from(sorted(self.outcome))), "duplicate", 4, "again")
        self.duplicates += 4

    @precondition(lambda self: self.of_outcome("open"))
    @rule(token=strategies.integers(0, 3))
    def train(self, token):
        names = self.of_outcome("open")
        self.step += 1
        self.contents[self.step] = self.ledger.trained(self.step, [group(name, token=token) for name in names], 0)
        self.outcome |= dict.fromkeys(names, "trained")

    @precondition(lambda self: self.of_outcome("open"))
    @rule()
    def skip(self):
        names = self.of_outcome("open")
        self.step += 1
        self.contents[self.step] = self.ledger.skipped(self.step, [group(name) for name in names], "not finite")
        self.outcome |= dict.fromkeys(names, "dead")

    @rule(data=strategies.data())
    def replay(self, data):
        """A step, or a group, once more."""
        settled = [name for name in self.outcome if self.outcome[name] != "open"]
        if settled:
            with pytest.raises(LedgerError):
                self.ledger.trained(self.step + 1, [group(data.draw(strategies.sampled_from(sorted(settled))))], 0)
        if self.step:
            with pytest.raises(LedgerError):
                self.ledger.trained(data.draw(strategies.integers(1, self.step)), [], 0)

    @rule(data=strategies.data())
    def restart(self, data):
        """Killed: the file is opened afresh and goes on from some checkpoint."""
        self.ledger.close()
        self.ledger = Ledger(ledger_path(Path(self.folder.name)))
        self.step = data.draw(strategies.integers(0, self.step))
        self.ledger.begin_life(f"life-{self.lives}", self.step)
        self.lives += 1
        self.outcome = {name: o for name, o in self.outcome.items() if int(name.split("-")[0]) <= self.step}
        self.contents = {step: content for step, content in self.contents.items() if step <= self.step}

    @invariant()
    def the_books_close_and_agree_with_the_model(self):
        counts = self.ledger.accounts
        assert (counts.trained, counts.given_up, counts.under_way, counts.lost) == tuple(
            4 * len(self.of_outcome(name)) for name in ("trained", "dead", "open", "lost")
        )
        assert (counts.redispatched, counts.duplicates_dropped) == (self.redispatched, self.duplicates)
        assert self.ledger.newest_step == self.step
        assert all(self.ledger.content_of(step) == content for step, content in self.contents.items())
        audit = audit_run(Path(self.folder.name))
        assert audit.closes, audit.findings
        assert (audit.trained, audit.dead, audit.lives) == (
            len(self.of_outcome("trained")), len(self.of_outcome("dead")), self.lives
        )  # fmt: skip

    def teardown(self):
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
