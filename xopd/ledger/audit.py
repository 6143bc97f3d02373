"""The audit: reads a run's ledger and checkpoints, and proves that the sums close.

Nothing is taken from the trainer's word: every sum is formed again from the rows, every step's content is hashed
again from its groups, and each checkpoint on disk must name the content of its step.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xopd.errors import UserError
from xopd.ledger.content import GENESIS, step_content
from xopd.ledger.ledger import ledger_path
from xopd.ledger.schema import open_database

MOST_FINDINGS = 20


@dataclass
class Audit:
    """What the audit found. Groups are counted unless the name says otherwise."""

    lives: int = 0
    steps: int = 0
    dispatched: int = 0
    trained: int = 0
    dead: int = 0
    open: int = 0
    """Of the step that is not finished."""
    lost: int = 0
    """Of finished steps, without an outcome."""
    supplied: int = 0
    """Trained groups whose responses nobody sampled."""
    trajectories_trained: int = 0
    dispatches: int = 0
    """Messages sent, further ones included, over all lives."""
    undone: int = 0
    """Groups of steps that a restart took back; each counts once for each time."""
    sent_again: dict[str, int] = field(default_factory=dict)
    """Further dispatches by cause."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Answers dropped without asking again, by cause."""
    dead_reasons: dict[str, int] = field(default_factory=dict)
    """Dead-lettered groups by reason, the most frequent first."""
    checkpoints: list[int] = field(default_factory=list)
    """Steps of the checkpoints on disk that agree with the ledger."""
    findings: list[str] = field(default_factory=list)
    """What does not close; empty for a run whose books are in order."""

    @property
    def closes(self) -> bool:
        """Whether the books are in order."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """Everything, and the verdict."""
        return {**vars(self), "closes": self.closes}


def audit_run(run: Path) -> Audit:
    """Audit the run in folder `run`; it may be under way.

    Raises:
        UserError: if there is no ledger, or it cannot be read.
    """
    path = ledger_path(run)
    if not path.exists():
        raise UserError(f"{run}: holds no ledger ({path.name}); give the folder of a run, such as runs/NAME.")
    try:
        with closing(open_database(path, read_only=True)) as database:
            # One transaction: a trainer that writes meanwhile does not change what is read.
            database.execute("BEGIN")
            audit = _count(database)
            audit.findings += [*_rows(database), *_sums(audit), *_chain(database)]
            contents = dict(database.execute("SELECT step, content FROM steps WHERE NOT undone").fetchall())
    except sqlite3.Error as error:
        raise UserError(f"{path}: cannot be read as a ledger ({error}).") from None
    for step, finding in _checkpoints(run / "checkpoints", contents):
        audit.checkpoints += [step] if finding is None else []
        audit.findings += [] if finding is None else [finding]
    audit.findings += _summary(run / "summary.json", audit)
    if len(audit.findings) > MOST_FINDINGS:
        more = len(audit.findings) - MOST_FINDINGS
        audit.findings = [*audit.findings[:MOST_FINDINGS], f"and {more} more"]
    return audit


def _count(database: sqlite3.Connection) -> Audit:
    def _one(query: str) -> int:
        return int(database.execute(query).fetchone()[0] or 0)

    def _by(query: str) -> dict[str, int]:
        return {str(name): int(n) for name, n in database.execute(query).fetchall()}

    live = "FROM groups WHERE outcome != 'undone' AND dispatches > 0"
    steps = _one("SELECT count(*) FROM steps WHERE NOT undone")
    newest = _one("SELECT max(step) FROM steps WHERE NOT undone")
    return Audit(
        lives=_one("SELECT count(*) FROM lives"),
        steps=steps,
        dispatched=_one(f"SELECT count(*) {live}"),
        trained=_one(f"SELECT count(*) {live} AND outcome = 'trained'"),
        dead=_one(f"SELECT count(*) {live} AND outcome = 'dead'"),
        open=_one(f"SELECT count(*) {live} AND outcome = 'open' AND step > {newest}"),
        lost=_one(f"SELECT count(*) {live} AND outcome = 'open' AND step <= {newest}"),
        supplied=_one("SELECT count(*) FROM groups WHERE outcome = 'trained' AND dispatches = 0"),
        trajectories_trained=_one(f"SELECT sum(responses) {live} AND outcome = 'trained'"),
        dispatches=_one("SELECT sum(dispatches) FROM groups"),
        undone=_one("SELECT count(*) FROM groups WHERE outcome = 'undone'"),
        sent_again=_by("SELECT kind, count(*) FROM drops WHERE sent_again GROUP BY kind"),
        dropped=_by("SELECT kind, count(*) FROM drops WHERE NOT sent_again GROUP BY kind"),
        dead_reasons=_by(
            "SELECT reason, count(*) AS n FROM groups WHERE outcome = 'dead' GROUP BY reason"
            " ORDER BY n DESC, reason LIMIT 20"
        ),
    )


def _sums(audit: Audit) -> Iterator[str]:
    if audit.dispatched != audit.trained + audit.dead + audit.open + audit.lost:
        yield (
            f"{audit.dispatched} groups were dispatched, but {audit.trained} trained + {audit.dead} dead-lettered"
            f" + {audit.open} under way + {audit.lost} lost is another number"
        )
    if audit.lost:
        yield f"{audit.lost} groups of finished steps have no outcome: they are lost"


def _rows(database: sqlite3.Connection) -> Iterator[str]:
    """What the tables' constraints should have made impossible, and what spans tables."""
    for row in database.execute("PRAGMA integrity_check(3)").fetchall():
        if row[0] != "ok":
            yield f"the file is damaged: {row[0]}"
    twice = "SELECT group_id, count(*) FROM groups WHERE outcome != 'undone' GROUP BY group_id HAVING count(*) > 1"
    for group_id, n in database.execute(twice).fetchall():
        yield f"group {group_id} has {n} outcomes"
    homeless = (
        "SELECT group_id, step FROM groups g WHERE outcome = 'trained' AND NOT EXISTS"
        " (SELECT 1 FROM steps s WHERE s.step = g.step AND s.life = g.life AND NOT s.undone)"
    )
    for group_id, step in database.execute(homeless).fetchall():
        yield f"group {group_id} is written down as trained in step {step}, which was not taken"
    uneven = (
        "SELECT g.group_id, g.dispatches, count(d.group_id) FROM groups g LEFT JOIN drops d"
        " ON d.group_id = g.group_id AND d.life = g.life AND d.sent_again WHERE g.dispatches > 0"
        " GROUP BY g.group_id, g.life HAVING g.dispatches != 1 + count(d.group_id)"
    )
    for group_id, dispatches, causes in database.execute(uneven).fetchall():
        yield f"group {group_id} was dispatched {dispatches} times, {causes} further ones have a cause"


def _chain(database: sqlite3.Connection) -> Iterator[str]:
    """Hash every step again from its groups, from the first to the newest."""
    groups: dict[int, dict[str, bytes]] = defaultdict(dict)
    for step, group_id, content in database.execute(
        "SELECT step, group_id, content FROM groups WHERE outcome = 'trained'"
    ):
        groups[step][group_id] = content
    expected, before = GENESIS, 0
    rows = database.execute("SELECT step, parent, content FROM steps WHERE NOT undone ORDER BY step").fetchall()
    for step, parent, content in rows:
        if step != before + 1:
            yield f"step {before + 1} is missing: step {step} follows step {before}"
        elif parent != expected:
            yield f"step {step} was not taken after the step {before} that the ledger has"
        if content != step_content(parent, step, groups[step]):
            yield f"step {step} was not trained on the groups that the ledger has for it"
        expected, before = content, step


def _checkpoints(folder: Path, contents: dict[int, bytes]) -> Iterator[tuple[int, str | None]]:
    for path in sorted(folder.glob("step-*")):
        try:
            about = json.loads((path / "state.json").read_text(encoding="utf-8"))
            step, content = int(about["step"]), bytes.fromhex(about["state"]["content"])
        except (OSError, ValueError, KeyError, TypeError):
            # The trainer skips it too, and says so; older ones stand.
            continue
        if step in contents and contents[step] == content:
            yield step, None
        else:
            yield step, f"checkpoint {path.name} holds a step {step} that the ledger does not have"


def _summary(path: Path, audit: Audit) -> Iterator[str]:
    """A finished run has nothing under way, and its summary says the same as its ledger."""
    if not path.exists():
        return
    try:
        counts = json.loads(path.read_text(encoding="utf-8"))["trajectories"]
        trained = int(counts["trained"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{path.name} cannot be read ({error})"
        return
    if audit.open:
        yield f"the run is finished, but {audit.open} groups are under way"
    if trained != audit.trajectories_trained:
        yield f"{path.name} has {trained} trajectories trained, the ledger {audit.trajectories_trained}"
