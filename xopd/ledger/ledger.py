"""The ledger: writes down what becomes of every training group, and refuses to write what must not be.

Invariants, held by the tables' own constraints:
- A group has one outcome that counts: open, trained or dead. What a restart took back is `undone` and counts no more.
- A group is trained in one step, a step is taken once, and a content is trained once.

States of a group:  dispatched ──▶ open ──▶ trained | dead ;  any of them ──▶ undone, when the trainer goes on from a
checkpoint before its step.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xopd.ledger.accounts import Accounts
from xopd.ledger.content import GENESIS, step_content
from xopd.ledger.schema import open_database

DropKind = Literal["duplicate", "stale", "failed", "overdue", "forgotten"]


class LedgerError(RuntimeError):
    """Something that must not be written down, such as a step that was taken already; or a file that is no ledger."""


@dataclass(frozen=True)
class TrainedGroup:
    """A group that a step trained on."""

    group_id: str
    content: bytes
    """See `group_content`."""
    responses: int
    sampled: bool
    """Whether it was dispatched; else its responses were supplied."""


class LedgerUnavailableError(OSError):
    """The file cannot be written to now, such as on a full disk: nothing was written, and trying again may succeed."""


MAY_PASS = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM}


def ledger_path(run: Path) -> Path:
    """Where the ledger of the run in folder `run` lies."""
    return run / "ledger.sqlite"


class Ledger:
    """The ledger of one run, open for writing by one trainer.

    Every method that writes does so in one transaction, and may raise LedgerUnavailableError.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            LedgerError: if the file cannot be used; the text says why.
        """
        self.path = path
        try:
            self._database = open_database(path)
            self.accounts = read_accounts(self._database)
        except sqlite3.Error as error:
            raise LedgerError(f"{path}: cannot be used as a ledger ({error})") from None
        self.life = 0

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def run_ids(self) -> set[str]:
        """Run ids of all lives so far."""
        return {str(row[0]) for row in self._database.execute("SELECT run_id FROM lives")}

    @property
    def newest_step(self) -> int:
        """The newest step that counts, 0 before the first."""
        return int(self._database.execute("SELECT coalesce(max(step), 0) FROM steps WHERE NOT undone").fetchone()[0])

    def content_of(self, step: int) -> bytes:
        """Content of a step that counts; GENESIS for step 0.

        Raises:
            LedgerError: if there is no such step.
        """
        if step == 0:
            return GENESIS
        row = self._database.execute("SELECT content FROM steps WHERE step = ? AND NOT undone", (step,)).fetchone()
        if row is None:
            raise LedgerError(f"{self.path}: knows no step {step}")
        return bytes(row[0])

    def begin_life(self, run_id: str, resumed_from: int) -> None:
        """Begin a life that goes on after step `resumed_from`: whatever came later is undone.

        Raises:
            LedgerError: if step `resumed_from` is unknown, or `run_id` was used before.
        """
        self.content_of(resumed_from)
        with self._transaction() as database:
            try:
                row = database.execute(
                    "INSERT INTO lives (run_id, began_at, resumed_from) VALUES (?, ?, ?)",
                    (run_id, time.time(), resumed_from),
                )
            except sqlite3.IntegrityError:
                raise LedgerError(f"run id {run_id} was used before") from None
            database.execute("UPDATE groups SET outcome = 'undone' WHERE step > ?", (resumed_from,))
            database.execute("UPDATE steps SET undone = 1 WHERE step > ?", (resumed_from,))
            assert row.lastrowid is not None
            self.life = row.lastrowid
        self.accounts = read_accounts(self._database)

    def dispatched(self, step: int, groups: Mapping[str, int]) -> None:
        """Groups of `step` are about to be sent; `groups` gives the number of responses wanted by group id.

        Raises:
            LedgerError: if one of them has an outcome already.
        """
        rows = [(group_id, self.life, step, n) for group_id, n in groups.items()]
        with self._transaction() as database:
            try:
                database.executemany("INSERT INTO groups VALUES (?, ?, ?, ?, 1, 'open', NULL, NULL)", rows)
            except sqlite3.IntegrityError:
                raise LedgerError(f"a group of step {step} was dispatched before") from None
        self.accounts.dispatched += sum(groups.values())
        self.accounts.under_way += sum(groups.values())

    def sent_again(self, group_ids: Sequence[str], kind: DropKind, reason: str, responses: int = 0) -> None:
        """Open groups are sent once more; `responses` is how many came for each and were not used."""
        now = time.time()
        with self._transaction() as database:
            for group_id in group_ids:
                self._change_open(database, group_id, "dispatches = dispatches + 1")
            database.executemany(
                "INSERT INTO drops VALUES (?, ?, ?, ?, 1, ?, ?)",
                [(self.life, group_id, kind, responses, reason, now) for group_id in group_ids],
            )
        self.accounts.redispatched += len(group_ids)
        if kind == "stale":
            self.accounts.stale_dropped += responses * len(group_ids)

    def dropped(self, group_id: str, kind: Literal["duplicate", "stale"], responses: int, reason: str) -> None:
        """An answer was dropped, and nothing is asked again: its group is answered already, or not this life's."""
        with self._transaction() as database:
            row = (self.life, group_id, kind, responses, reason, time.time())
            database.execute("INSERT INTO drops VALUES (?, ?, ?, ?, 0, ?, ?)", row)
        if kind == "duplicate":
            self.accounts.duplicates_dropped += responses
        else:
            self.accounts.stale_dropped += responses

    def dead_lettered(self, group_id: str, reason: str) -> None:
        """An open group is given up: dead-lettered, with the reason."""
        with self._transaction() as database:
            n = self._change_open(database, group_id, "outcome = 'dead', reason = ?", reason)
        self.accounts.given_up += n
        self.accounts.under_way -= n

    def assert_new(self, step: int, groups: Sequence[TrainedGroup]) -> None:
        """Check, before the weights change, that `trained` will be able to write this step down.

        Raises:
            LedgerError: if the step was taken, or a group of it was trained or given up, before.
        """
        if step != self.newest_step + 1:
            raise LedgerError(f"step {step} cannot be taken: the newest step is {self.newest_step}")
        for group in groups:
            row = self._database.execute(
                "SELECT outcome FROM groups WHERE group_id = ? AND outcome != 'undone'", (group.group_id,)
            ).fetchone()
            if row != (("open",) if group.sampled else None):
                raise LedgerError(f"group {group.group_id} cannot be trained on: it is {row[0] if row else 'unknown'}")

    def trained(self, step: int, groups: Sequence[TrainedGroup], policy_lag: int) -> bytes:
        """Step `step` trained on `groups`, whose oldest token was `policy_lag` versions old; returns its content.

        Raises:
            LedgerError: as `assert_new`.
        """
        self.assert_new(step, groups)
        with self._transaction() as database:
            try:
                for group in groups:
                    if group.sampled:
                        self._change_open(database, group.group_id, "outcome = 'trained', content = ?", group.content)
                    else:
                        row = (group.group_id, self.life, step, group.responses, group.content)
                        database.execute("INSERT INTO groups VALUES (?, ?, ?, ?, 0, 'trained', ?, NULL)", row)
                content = self._take(database, step, groups, policy_lag)
            except sqlite3.IntegrityError as error:
                raise LedgerError(f"step {step} cannot be taken ({error})") from None
        n, lost = sum(group.responses for group in groups if group.sampled), _lost(self._database)
        self.accounts.trained += n
        self.accounts.under_way -= n + lost - self.accounts.lost
        self.accounts.lost = lost
        self.accounts.policy_lag_max = max(self.accounts.policy_lag_max, policy_lag)
        return content

    def skipped(self, step: int, groups: Sequence[TrainedGroup], reason: str) -> bytes:
        """Step `step` left the weights as they were: its groups are dead-lettered; returns the step's content.

        Raises:
            LedgerError: as `assert_new`.
        """
        self.assert_new(step, groups)
        with self._transaction() as database:
            for group in groups:
                if group.sampled:
                    self._change_open(database, group.group_id, "outcome = 'dead', reason = ?", reason)
            content = self._take(database, step, [], 0)
        self.accounts = read_accounts(self._database)
        return content

    def _take(self, database: sqlite3.Connection, step: int, groups: Sequence[TrainedGroup], policy_lag: int) -> bytes:
        parent = self.content_of(step - 1)
        content = step_content(parent, step, {group.group_id: group.content for group in groups})
        row = (step, self.life, parent, content, policy_lag, time.time())
        database.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?, 0, ?)", row)
        return content

    def _change_open(self, database: sqlite3.Connection, group_id: str, change: str, *values: Any) -> int:
        """Change this life's open group; returns its number of responses. `change` is a caller's own literal."""
        query = f"UPDATE groups SET {change} WHERE group_id = ? AND life = ? AND outcome = 'open'"  # noqa: S608 # nosec B608
        row = database.execute(f"{query} RETURNING responses", (*values, group_id, self.life)).fetchone()
        if row is None:
            raise LedgerError(f"group {group_id} is not under way")
        return int(row[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database
            self._database.execute("COMMIT")
        except BaseException as error:
            # The system's own error has rolled it back already, in some cases.
            with contextlib.suppress(sqlite3.OperationalError):
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in MAY_PASS:
                raise LedgerUnavailableError(f"{self.path}: {error}") from None
            raise


def read_accounts(database: sqlite3.Connection) -> Accounts:
    """The accounts as the tables have them."""
    of_outcome = dict(
        database.execute("SELECT outcome, sum(responses) FROM groups WHERE dispatches > 0 GROUP BY outcome").fetchall()
    )
    dropped = dict(database.execute("SELECT kind, sum(responses) FROM drops GROUP BY kind").fetchall())
    again = database.execute("SELECT coalesce(sum(sent_again), 0) FROM drops").fetchone()[0]
    lag = database.execute("SELECT coalesce(max(policy_lag), 0) FROM steps WHERE NOT undone").fetchone()[0]
    parts = {name: int(of_outcome.get(name, 0)) for name in ("trained", "dead", "open", "undone")}
    lost = _lost(database)
    return Accounts(
        dispatched=parts["trained"] + parts["dead"] + parts["open"],
        trained=parts["trained"],
        given_up=parts["dead"],
        under_way=parts["open"] - lost,
        lost=lost,
        duplicates_dropped=int(dropped.get("duplicate", 0)),
        stale_dropped=int(dropped.get("stale", 0)),
        redispatched=int(again),
        undone=parts["undone"],
        policy_lag_max=int(lag),
    )


def _lost(database: sqlite3.Connection) -> int:
    newest = "(SELECT coalesce(max(step), 0) FROM steps WHERE NOT undone)"
    query = f"SELECT coalesce(sum(responses), 0) FROM groups WHERE outcome = 'open' AND step <= {newest}"  # noqa: S608 # nosec B608
    return int(database.execute(query).fetchone()[0])
