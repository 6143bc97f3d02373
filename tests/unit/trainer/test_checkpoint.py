"""Checkpoints: whole or not at all, and the optimiser goes on where it was."""

import resource
import signal

import pytest
import torch
from xopd_trainer.learning.checkpoint import load_newest_checkpoint, save_checkpoint
from xopd_trainer.learning.optimiser import learning_rate, load_optimiser_tensors, optimiser_tensors

from tests.unit.trainer.groups import batch, make_learner
from xopd.config.schema import OptimiserSettings
from xopd.errors import UserError
from xopd.families.tensors import load_hub_state


def save(folder, step, value=1.0, keep=2):
    tensors = {"w": torch.full((3,), value)}
    return save_checkpoint(folder, step, tensors, tensors, {"content": f"{step:064x}"}, keep)


def test_newest_is_loaded_and_old_ones_go(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, float(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    loaded = load_newest_checkpoint(tmp_path)
    assert loaded.step == 3
    assert float(loaded.model["w"][0]) == 3.0
    assert int(loaded.state["content"], 16) == 3


def test_damaged_ones_are_skipped(tmp_path):
    save(tmp_path, 1)
    newest = save(tmp_path, 2) / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    assert load_newest_checkpoint(tmp_path).step == 1
    (tmp_path / "step-00000001" / "state.json").write_text("{")
    with pytest.raises(UserError, match="none of its 2 checkpoints is whole"):
        load_newest_checkpoint(tmp_path)


def test_none_at_all_is_a_beginning(tmp_path):
    assert load_newest_checkpoint(tmp_path / "nothing") is None


def test_one_that_was_being_written_is_removed(tmp_path):
    save(tmp_path, 1)
    half = tmp_path / ".step-00000002.part"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert load_newest_checkpoint(tmp_path).step == 1
    assert not half.exists()


def test_a_full_disk_leaves_the_older_ones_and_no_leftover(tmp_path):
    """A limit on the size of files stands in for the full disk; the system's error reaches the caller as OSError."""
    save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written|File too large"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert load_newest_checkpoint(tmp_path).step == 1


def test_a_restored_learner_takes_the_same_step(config, family, features, clips, tmp_path):
    groups = batch(family, clips)
    straight = make_learner(config, family, features)
    straight.step(1, groups)
    save_checkpoint(
        tmp_path, 1, straight.trained_state(), optimiser_tensors(straight.optimiser, straight.trained), {}, 1
    )
    straight.step(2, groups)

    restored = make_learner(config, family, features)
    checkpoint = load_newest_checkpoint(tmp_path)
    load_hub_state(family, restored.policy, checkpoint.model.items())
    load_optimiser_tensors(restored.optimiser, restored.trained, checkpoint.optimiser)
    restored.step(2, groups)
    for name, tensor in straight.trained_state().items():
        assert torch.equal(tensor, restored.trained_state()[name]), name


def test_schedules():
    linear = OptimiserSettings(learning_rate=1.0, warmup_steps=2)
    assert [learning_rate(linear, s, 6) for s in range(1, 7)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert learning_rate(OptimiserSettings(learning_rate=1.0, schedule="constant"), 9, 9) == 1.0
    cosine = OptimiserSettings(learning_rate=1.0, schedule="cosine")
    assert learning_rate(cosine, 1, 10) == 1.0
    assert 0 < learning_rate(cosine, 10, 10) < 0.05
