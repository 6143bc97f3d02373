"""A trainer that dies while the slowest groups of a step are unanswered: resumed, it trains on them as on all others.

A resume that went on with what was answered would favour short responses: the longest are always the last to come.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest
from xopd_trainer.dispatch.data_order import DataOrder

from tests.e2e.world import make_world
from tests.integration.forked import start
from tests.integration.teacher_process import TeacherProcess
from tests.integration.test_trainer_hostile_pod import KEYS, Pod
from xopd.config import load_config
from xopd.data import load_items
from xopd.ledger.audit import audit_run
from xopd.ledger.ledger import ledger_path
from xopd.local.embedded_redis import EmbeddedServer
from xopd.v1 import trajectory_pb2 as pb

pytestmark = pytest.mark.timeout(400)
STEPS, GROUPS = 5, 8  # groups of a step: four items as text and as speech
DEADLY_STEP, SLOW = 4, 3


class SlowPod(Pod):
    """Answers all groups of the deadly step but the last three, whose responses take longer."""

    def __init__(self, server: EmbeddedServer) -> None:
        super().__init__(server, range(0))
        self.answered: Counter[int] = Counter()
        self.slow: list[tuple[bytes, pb.PromptGroup]] = []

    def _answer(self, entry: bytes, group: pb.PromptGroup) -> None:
        training = group.purpose == pb.PURPOSE_TRAIN
        if training and group.step == DEADLY_STEP and self.answered[DEADLY_STEP] == GROUPS - SLOW:
            self.slow.append((entry, group))
            return
        self.answered[group.step if training else -1] += 1
        super()._answer(entry, group)


class LatePod(Pod):
    """Delivers what the earlier pod sampled for the earlier life, once it sees work of the next one."""

    def __init__(self, server: EmbeddedServer, late: list[tuple[bytes, pb.PromptGroup]]) -> None:
        super().__init__(server, range(0))
        self.late = late

    def _answer(self, entry: bytes, group: pb.PromptGroup) -> None:
        late, self.late = self.late, []
        for earlier in late:
            super()._answer(*earlier)
        super()._answer(entry, group)


@pytest.fixture
def server(tmp_path):
    with EmbeddedServer(tmp_path / "redis") as running:
        yield running


@contextlib.contextmanager
def trainer(tmp_path: Path, config: Path, *settings: str):
    """A life of the trainer; gives its process."""
    sets = [part for setting in settings for part in ("--set", setting)]
    log = tmp_path / f"trainer-{time.monotonic_ns()}.log"
    process = start(["xopd_trainer", "--config", str(config), "--resume", *sets], log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("checkpoint_every", [2, 50])
def test_every_item_of_the_step_is_trained_on_once(tmp_path, server, checkpoint_every) -> None:
    """From a checkpoint before the step, and from the base."""
    path = make_world(
        tmp_path / "world",
        run={"steps": STEPS, "checkpoint_every": checkpoint_every},
        evals={"every": 0},
        trainer={"redispatch_after_s": 100.0},
    )
    teacher = TeacherProcess(tmp_path / "teacher", tmp_path / "world" / "teacher").start()
    settings = (f"redis.url={server.url}", f"teacher.endpoints=[{teacher.grpc}]")
    run = tmp_path / "world" / "runs" / "small"
    try:
        slow = SlowPod(server)
        with trainer(tmp_path, path, *settings) as first:
            slow.answer_until(lambda: len(slow.slow) == SLOW or first.poll() is not None)
            assert len(slow.slow) == SLOW
            # Those that are answered have been taken in before it dies.
            while slow.client.xinfo_groups(KEYS.trajectories)[0]["lag"]:
                assert first.poll() is None
                time.sleep(0.05)
        audit = audit_run(run)
        assert audit.closes, audit.findings
        assert (audit.steps, audit.open) == (DEADLY_STEP - 1, GROUPS)

        late = LatePod(server, slow.slow)
        with trainer(tmp_path, path, *settings) as second:
            late.answer_until(lambda: second.poll() is not None)
            assert second.returncode == 0
    finally:
        teacher.stop()

    audit = audit_run(run)
    assert audit.closes, audit.findings
    assert (audit.lives, audit.steps, audit.dead, audit.lost, audit.open) == (2, STEPS, 0, 0, 0)
    assert audit.trained == STEPS * GROUPS
    # The answers to the earlier life's groups came, and were not taken for the later one's.
    assert audit.dropped == {"stale": SLOW}
    with contextlib.closing(sqlite3.connect(ledger_path(run))) as ledger:
        rows = ledger.execute("SELECT step, group_id FROM groups WHERE outcome = 'trained'").fetchall()
    config = load_config(str(path))
    items = [i for i in load_items(config.data.manifest) if i.split == "train" and i.kind == "task"]
    order = DataOrder(items, config.trainer.batch_prompts, config.run.seed)
    for step in range(1, STEPS + 1):
        trained = Counter(next(i.id for i in items if i.id in group_id) for at, group_id in rows if at == step)
        assert trained == {item.id: 2 for item in order.items_of(step)}
