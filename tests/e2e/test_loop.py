"""The whole system through `xopd up`: real vLLM, real gRPC, real Valkey, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2AudioForConditionalGeneration

from tests.e2e.world import Run, make_world
from xopd.families import open_family

pytestmark = pytest.mark.timeout(600)


def assert_accounts_closed(run: Run, steps: int, per_step: int) -> None:
    counts = run.summary()["trajectories"]
    assert counts["dispatched"] == counts["trained"] == steps * per_step
    assert counts["lost"] == counts["given_up"] == 0
    assert run.summary()["policy_lag"]["max"] == 0
    assert [r["step"] for r in run.steps()] == list(range(1, steps + 1))


def test_a_run_from_start_to_report(finished, start):
    """Both modalities; then the export loads in transformers, frozen parts bit-identical."""
    run, world = finished, finished.output.parent
    assert_accounts_closed(run, steps=4, per_step=4 * 2 * 4)
    summary = run.summary()
    assert summary["engine"]["rollout"].startswith("vllm 0.")
    assert summary["engine"]["teacher"].startswith("transformers 5.")
    assert summary["base"]["speech"]["n"] == 4
    assert summary["base"]["retention"]["n"] == 4
    assert (run.folder / "report.html").stat().st_size > 10_000
    for step in run.steps():
        assert step["text"]["tokens"] > 0
        assert step["speech"]["tokens"] > 0
        for modality in ("text", "speech"):
            # vLLM and the learner compute the same policy: the ratio is 1 up to rounding.
            assert step[modality]["ratio"]["mean"] == pytest.approx(1.0, abs=1e-3)

    family = open_family(str(world / "student"))
    before, after = (
        load_file(world / "student/model.safetensors"),
        load_file(run.folder / "export/model.safetensors"),
    )
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == family.is_frozen(name), name
    Qwen2AudioForConditionalGeneration.from_pretrained(run.folder / "export")

    again = start(world / "config.yaml")
    assert again.wait(60) == 2
    assert "finished run" in again.text()


def test_student_equal_to_teacher_has_advantage_zero_end_to_end(equal):
    """Text only, and the student's language model is the teacher's: nothing to learn, through every service."""
    run = equal
    assert len(run.steps()) == 2
    assert_accounts_closed(run, steps=2, per_step=4 * 4)
    for step in run.steps():
        assert step["speech"] is None
        advantage = step["text"]["advantage"]
        assert max(abs(advantage[key]) for key in ("mean", "p5", "p95", "std")) < 1e-4
        assert step["text"]["tokens"] > 50


def test_ctrl_c_then_resume(tmp_path, start):
    config = make_world(tmp_path, run={"steps": 18}, evals={"every": 0})
    run = start(config)
    run.wait_for_step(3)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(120) != 0
    assert "--resume" in run.text()
    done = len(run.steps())
    assert 3 <= done < 18
    time.sleep(0.5)
    for name in ("trainer", "rollout-0", "teacher-0"):
        with pytest.raises((ProcessLookupError, KeyError)):
            os.kill(run.pid_of(name), 0)

    # Stopped from outside, as Kubernetes stops a pod: in order too, and told by the exit status.
    second = start(config, "--resume")
    second.wait_for_step(done + 2)
    os.kill(second.pid_of("trainer"), signal.SIGTERM)
    assert second.wait(120) == 128 + signal.SIGTERM, second.text()
    assert "the trainer was stopped from outside" in second.text()
    assert "--resume" in second.text()
    further = len(second.steps())
    assert done + 2 <= further < 18

    # With other items, or another size of a step, it does not go on; in another order it does, and takes each in turn.
    manifest = tmp_path / "items.jsonl"
    lines = manifest.read_text().splitlines()
    for setting, changed, sentence in (
        (
            "run.steps=18",
            [line.replace('"answer": "six"', '"answer": "sixty"') for line in lines],
            "has another answer",
        ),
        ("run.steps=18", [line for line in lines if '"item-05"' not in line], "item item-05 was removed"),
        ("trainer.batch_prompts=3", lines, "was begun with trainer.batch_prompts 4, and is to go on with 3"),
    ):
        manifest.write_text("".join(f"{line}\n" for line in changed))
        refused = start(config, "--resume", "--set", setting)
        assert refused.wait(60) == 2, refused.text()
        assert sentence in refused.text()
    manifest.write_text("".join(f"{line}\n" for line in reversed(lines)))

    resumed = start(config, "--resume")
    assert resumed.wait(420) == 0, resumed.text()
    with contextlib.closing(sqlite3.connect(resumed.folder / "ledger.sqlite")) as ledger:
        taken = ledger.execute(
            "SELECT step, group_id FROM groups WHERE outcome = 'trained' AND group_id LIKE '%-speech'"
        )
        trained = sorted((step, group_id.split("-speech")[0].rpartition("item-")[2]) for step, group_id in taken)
    for begin in range(0, 72, 12):
        assert len({item for _, item in trained[begin : begin + 12]}) == 12, "an item twice in one pass, or not at all"
    events = [r for r in resumed.records() if r["kind"] == "event"]
    assert [r["step"] for r in events if r["event"] == "resumed"] == [done, further]
    assert_accounts_closed(resumed, steps=18, per_step=4 * 2 * 4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["redis.url=redis://127.0.0.1:1"], "cannot be reached"),
        (["teacher.endpoints=[127.0.0.1:1]"], "127.0.0.1:1"),
        (["objective.lamda=0.5"], "did you mean `lambda`"),
        (["data.manifest=/nowhere.jsonl"], "no such manifest"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, start, settings, sentence):
    config = make_world(tmp_path, teacher={"attempts": 2}, redis={"connect_timeout_s": 2})
    run = start(config, *(part for setting in settings for part in ("--set", setting)))
    assert run.wait(240) == 2, run.text()
    assert sentence in run.text()
    assert "Traceback" not in run.text()
