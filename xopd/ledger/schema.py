"""The tables of the ledger, and how its file is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

VERSION = 1
TABLES = """
-- One life of the trainer: from its start to its end, however it ended.
CREATE TABLE IF NOT EXISTS lives (
    life INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    began_at REAL NOT NULL,
    resumed_from INTEGER NOT NULL          -- step of the checkpoint that it went on from, 0 for none
);
-- One training group in one life. `undone` rows belong to steps that a later life took back.
CREATE TABLE IF NOT EXISTS groups (
    group_id TEXT NOT NULL,
    life INTEGER NOT NULL REFERENCES lives,
    step INTEGER NOT NULL,
    responses INTEGER NOT NULL,
    dispatches INTEGER NOT NULL,           -- 0: the responses were supplied, nothing was sent
    outcome TEXT NOT NULL CHECK (outcome IN ('open', 'trained', 'dead', 'undone')),
    content BLOB,                          -- of a trained group
    reason TEXT,                           -- of a dead-lettered group
    PRIMARY KEY (group_id, life)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS one_outcome ON groups (group_id) WHERE outcome != 'undone';
CREATE INDEX IF NOT EXISTS groups_of_step ON groups (step);
CREATE INDEX IF NOT EXISTS open_groups ON groups (step, responses) WHERE outcome = 'open';
-- An answer that was not trained on, or a group that was sent once more.
CREATE TABLE IF NOT EXISTS drops (
    life INTEGER NOT NULL REFERENCES lives,
    group_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('duplicate', 'stale', 'failed', 'overdue', 'forgotten')),
    responses INTEGER NOT NULL,
    sent_again INTEGER NOT NULL,           -- whether the group was dispatched once more because of it
    reason TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS steps (
    step INTEGER NOT NULL,
    life INTEGER NOT NULL REFERENCES lives,
    parent BLOB NOT NULL,
    content BLOB NOT NULL,
    policy_lag INTEGER NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0,
    at REAL NOT NULL,
    PRIMARY KEY (step, life)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS one_step ON steps (step) WHERE NOT undone;
CREATE UNIQUE INDEX IF NOT EXISTS one_content ON steps (content) WHERE NOT undone;
"""


def open_database(path: Path, read_only: bool = False) -> sqlite3.Connection:
    """Connect, make the tables where they are missing, and check that the file is a ledger of this version.

    Transactions are begun explicitly. A committed one survives the process and, through fsync, the machine.

    Raises:
        sqlite3.Error: if the file is no database, is damaged, or is of another version.
    """
    where = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    database = sqlite3.connect(where, uri=True, isolation_level=None, timeout=10.0, check_same_thread=False)
    try:
        if not read_only:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
        found = int(database.execute("PRAGMA user_version").fetchone()[0])
        if found != VERSION and (found != 0 or read_only):
            raise sqlite3.DatabaseError(f"it is of version {found}, this is version {VERSION}")
        if not read_only:
            database.executescript(TABLES)
            database.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        database.close()
        raise
    return database
