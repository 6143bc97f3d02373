"""A real trainer, a real teacher and a real Redis, against a pod that lies, or cannot have the policy.

The pod claims a log-probability of -10^9 for tokens that the policy finds likely: the importance ratio, and with it
the loss, is infinite. Such a step must leave the weights as they were; a few in a row must end the run with a sentence
and a checkpoint, from which honest pods bring it to its end.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import redis
import torch
from safetensors.torch import load_file

from tests.e2e.world import make_world
from tests.integration.forked import start
from tests.integration.teacher_process import TeacherProcess
from xopd.ledger.audit import audit_run
from xopd.local.embedded_redis import EmbeddedServer
from xopd.streams import Keys
from xopd.v1 import trajectory_pb2 as pb
from xopd.v1 import weights_pb2
from xopd.weights.store import StoreSender

pytestmark = pytest.mark.timeout(400)
KEYS = Keys("xopd")
HONEST, LIE = -5.0, -1e9


class Pod:
    """Answers prompts with random tokens; in the steps of `lies` the log-probabilities are made up."""

    def __init__(self, server: EmbeddedServer, lies: range) -> None:
        self.client = redis.Redis(port=server.port)
        self.lies = lies
        self.rng = np.random.default_rng(0)
        self.refused = 0
        """Groups that it could not have the policy for."""

    def problem(self, group: pb.PromptGroup) -> str | None:
        """Why it cannot have the policy that `group` wants."""
        return None

    def answer_until(self, ended) -> None:
        while not ended():
            try:
                reply = self.client.xreadgroup("rollout", "pod", {KEYS.prompts: ">"}, count=16, block=200)
            except redis.ResponseError:
                continue  # the trainer has not made the group yet
            for _, entries in reply.items() if isinstance(reply, dict) else reply or []:
                for entry, fields in entries[0] if entries and isinstance(entries[0], list) else entries:
                    self._answer(entry, pb.PromptGroup.FromString(fields[b"p"]))

    def _answer(self, entry: bytes, group: pb.PromptGroup) -> None:
        problem = self.problem(group)
        lie = group.purpose == pb.PURPOSE_TRAIN and group.step in self.lies
        answer = pb.TrajectoryGroup(
            protocol=1, run_id=group.run_id, group_id=group.group_id, item_id=group.item_id, modality=group.modality,
            purpose=group.purpose, step=group.step, attempt=group.attempt, pod_id="pod",
        )  # fmt: skip
        if problem is not None:
            self.refused += 1
            answer.failure.code, answer.failure.reason = pb.FAILURE_CODE_POLICY_UNAVAILABLE, problem
        for index, seed in enumerate(group.seeds if problem is None else ()):
            tokens = self.rng.integers(0, 100, 4).tolist()
            answer.trajectories.add(
                index=index, seed=seed, token_ids=tokens, logprobs=[LIE if lie else HONEST] * 4,
                policy_versions=[group.min_policy_version] * 4, finish_reason=pb.FINISH_REASON_LENGTH,
            )  # fmt: skip
        with self.client.pipeline(transaction=True) as pipe:
            pipe.xadd(KEYS.trajectories, {b"p": answer.SerializeToString()})
            pipe.xack(KEYS.prompts, "rollout", entry)
            pipe.xdel(KEYS.prompts, entry)
            pipe.execute()


@pytest.fixture
def server(tmp_path):
    with EmbeddedServer(tmp_path / "redis") as running:
        yield running


@pytest.fixture
def train(tmp_path, server):
    """Run a trainer to its end beside a pod; its exit status and its log."""
    config = make_world(
        tmp_path / "world",
        run={"steps": 8, "checkpoint_every": 50},
        evals={"every": 0},
        trainer={"max_skipped_steps": 3},
    )
    teacher = TeacherProcess(tmp_path / "teacher", tmp_path / "world" / "teacher", engine="transformers").start()

    def _train(pod: Pod) -> tuple[int, str]:
        log = tmp_path / f"trainer-{time.monotonic_ns()}.log"
        settings = (f"redis.url={server.url}", f"teacher.endpoints=[{teacher.grpc}]")
        sets = [part for setting in settings for part in ("--set", setting)]
        process = start(["xopd_trainer", "--config", str(config), "--resume", *sets], log)
        try:
            pod.answer_until(lambda: process.poll() is not None)
        finally:
            process.kill()
            process.wait()
        return process.returncode, log.read_text()

    yield _train
    teacher.stop()


def newest_weights(run: Path) -> tuple[str, dict[str, torch.Tensor]]:
    newest = max((run / "checkpoints").glob("step-*"))
    return newest.name, load_file(newest / "model.safetensors")


def test_steps_that_are_not_finite_leave_the_weights_and_end_the_run_in_order(tmp_path, train, server):
    run = tmp_path / "world" / "runs" / "small"
    status, log = train(Pod(server, range(3, 100)))
    assert status == 2, log
    assert "Traceback" not in log
    assert "was not finite in 3 steps in a row, the last of them 5" in log
    name, weights = newest_weights(run)
    assert name == "step-00000004"  # the step that ended it is not counted
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    audit = audit_run(run)
    assert audit.closes, audit.findings
    assert audit.dead == 3 * 8
    assert [reason for reason in audit.dead_reasons if "not finite" in reason]

    status, log = train(Pod(server, range(0)))
    assert status == 0, log
    audit = audit_run(run)
    assert audit.closes, audit.findings
    assert (audit.steps, audit.dead, audit.trained, audit.lives) == (8, 2 * 8, 6 * 8, 2)
    name, after = newest_weights(run)
    assert name == "step-00000008"
    assert any(not torch.equal(after[key], weights[key]) for key in weights)


def test_a_single_one_is_skipped_and_the_run_goes_on(tmp_path, train, server):
    status, log = train(Pod(server, range(3, 4)))
    assert status == 0, log
    audit = audit_run(tmp_path / "world" / "runs" / "small")
    assert audit.closes, audit.findings
    assert (audit.steps, audit.dead, audit.trained) == (8, 8, 7 * 8)


class PodWithDamagedWeights(Pod):
    """Finds a bit of version 2 flipped when it first needs it, as on a disk that ages; later it looks again."""

    def __init__(self, server: EmbeddedServer, store: Path) -> None:
        super().__init__(server, range(0))
        self.store = store
        self.damaged = False

    def problem(self, group: pb.PromptGroup) -> str | None:
        if group.min_policy_version != 2:
            return None
        [path] = self.store.glob("*-v00000002.safetensors")
        if not self.damaged:
            self.damaged = True
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        manifests = [
            weights_pb2.WeightManifest.FromString(fields[b"p"]) for _, fields in self.client.xrevrange(KEYS.weights)
        ]
        manifest = next(one for one in manifests if one.version == 2)
        return StoreSender(str(self.store), manifest.run_id, keep=2).fault_of(manifest)


def test_a_damaged_weight_version_is_written_again_and_costs_no_group(tmp_path, train, server):
    run = tmp_path / "world" / "runs" / "small"
    pod = PodWithDamagedWeights(server, run / "weights")
    status, log = train(pod)
    assert status == 0, log
    assert pod.refused > 0
    audit = audit_run(run)
    assert audit.closes, audit.findings
    assert (audit.steps, audit.dead, audit.trained) == (8, 0, 8 * 8)
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    mended = [event for event in events if event.get("event") == "mended"]
    assert [event["step"] for event in mended] == [2]
    assert "weight version 2 was damaged or missing" in mended[0]["detail"]


class PodWithoutWeights(Pod):
    """Never has the last version."""

    def problem(self, group: pb.PromptGroup) -> str | None:
        return "the volume is not mounted here" if group.min_policy_version == 8 else None


def test_an_evaluation_without_the_policy_has_no_score_and_can_be_had_later(tmp_path, train, server):
    run = tmp_path / "world" / "runs" / "small"
    status, log = train(PodWithoutWeights(server, range(0)))
    assert status == 2, log
    assert "the final evaluation cannot go on: the volume is not mounted here" in log
    assert "Traceback" not in log
    assert not (run / "summary.json").exists()
    status, log = train(Pod(server, range(0)))
    assert status == 0, log
    assert json.loads((run / "summary.json").read_text())["final"]["speech"]["n"] == 4
