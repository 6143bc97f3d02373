"""Checkpoints: whole or not at all, and the optimiser goes on where it was."""

import json
import resource
import signal
import threading
from hashlib import sha256 as digest

import pytest
import torch
from safetensors.torch import save as serialise
from xopd_trainer.learning.checkpoint import newest_checkpoint, save_checkpoint
from xopd_trainer.learning.handle import LearnerHandle
from xopd_trainer.learning.learner import FrozenPartChangedError
from xopd_trainer.learning.optimiser import learning_rate, load_optimiser_tensors, make_optimiser, optimiser_tensors

from tests.unit.trainer.groups import batch, make_learner, optimiser_state, trained_state
from xopd.config.schema import OptimiserSettings
from xopd.errors import UserError
from xopd.families.tensors import hub_state
from xopd.v1 import weights_pb2 as pb
from xopd.weights.base import TensorsInMemory


def save(folder, step, value=1.0, keep=2):
    tensors = TensorsInMemory({"w": torch.full((3,), value)})
    return save_checkpoint(folder, step, tensors, tensors, {"content": f"{step:064x}"}, keep)


def test_newest_is_loaded_and_old_ones_go(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, float(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    loaded = newest_checkpoint(tmp_path)
    assert loaded.step == 3
    assert [(name, tensor.tolist()) for name, tensor in loaded.model()] == [("w", [3.0] * 3)]
    assert int(loaded.state["content"], 16) == 3


def test_damaged_ones_are_skipped(tmp_path):
    save(tmp_path, 1)
    newest = save(tmp_path, 2) / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    assert newest_checkpoint(tmp_path).step == 1
    (tmp_path / "step-00000001" / "state.json").write_text("{")
    with pytest.raises(UserError, match="none of its 2 checkpoints is whole"):
        newest_checkpoint(tmp_path)


def test_none_at_all_is_a_beginning(tmp_path):
    assert newest_checkpoint(tmp_path / "nothing") is None


def test_one_that_was_being_written_is_removed(tmp_path):
    save(tmp_path, 1)
    half = tmp_path / ".step-00000002.part"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(tmp_path).step == 1
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
    assert newest_checkpoint(tmp_path).step == 1


def assert_same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


async def test_a_restored_learner_takes_the_same_step(config, family, features, clips, tmp_path):
    groups = batch(family, clips)
    learner = make_learner(config, family, features)
    straight = LearnerHandle(learner)
    await straight.step(1, groups)
    saved = await straight.save(tmp_path, 1, {"content": "abc"}, keep=1)
    weights, adam = trained_state(learner), optimiser_state(learner)
    await straight.step(2, groups)

    other = make_learner(config, family, features)
    restored, checkpoint = LearnerHandle(other), newest_checkpoint(tmp_path)
    assert (checkpoint.path, checkpoint.step, checkpoint.state["content"]) == (saved, 1, "abc")
    await restored.load(checkpoint)
    assert_same_tensors(trained_state(other), weights)
    assert_same_tensors(optimiser_state(other), adam)
    assert {name.partition("/")[0] for name in adam} == {"exp_avg", "exp_avg_sq", "step"}
    await restored.step(2, groups)
    assert_same_tensors(trained_state(other), trained_state(learner))
    assert_same_tensors(optimiser_state(other), optimiser_state(learner))


async def test_the_files_are_those_of_the_formats_own_library(config, family, features, clips, tmp_path):
    """Byte by byte: an earlier release reads them, and their hashes tell whether two runs ended alike."""
    learner = make_learner(config, family, features)
    learner.step(1, batch(family, clips))
    saved = await LearnerHandle(learner).save(tmp_path, 1, {}, keep=1)
    for name, tensors in (("model", trained_state(learner)), ("optimiser", optimiser_state(learner))):
        data = (saved / f"{name}.safetensors").read_bytes()
        assert data == serialise(tensors)
        assert (
            json.loads((saved / "state.json").read_text())["sha256"][f"{name}.safetensors"] == digest(data).hexdigest()
        )


class Fused:
    """A family of which one tensor here is two, transposed, on the hub."""

    def hub_tensors(self, name, tensor):
        return iter([(f"{name}.0", tensor[0].T), (f"{name}.1", tensor[1].T)])


def test_adams_state_is_cut_as_its_parameter_is():
    def _make():
        parameter = torch.nn.Parameter(torch.arange(12.0).reshape(2, 2, 3))
        return parameter, make_optimiser(OptimiserSettings(learning_rate=0.1), {"up": parameter})

    def _step(parameter, optimiser):
        parameter.grad = torch.linspace(-1, 1, 12).reshape(2, 2, 3)
        optimiser.step()

    parameter, optimiser = _make()
    _step(parameter, optimiser)
    tensors = dict(optimiser_tensors(optimiser, Fused(), {"up": parameter}))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    averages = {f"{field}/up.{i}": (3, 2) for field in ("exp_avg", "exp_avg_sq") for i in (0, 1)}
    assert shapes == {**averages, "step/up.0": ()}
    other, restored = _make()
    with torch.no_grad():
        other.copy_(parameter)
    load_optimiser_tensors(restored, Fused(), {"up": other}, tensors.items())
    _step(parameter, optimiser)
    _step(other, restored)
    assert torch.equal(other, parameter)
    with pytest.raises(KeyError, match="down"):
        load_optimiser_tensors(restored, Fused(), {"up": other}, [("exp_avg/down.0", torch.zeros(3, 2))])


async def test_what_was_trained_with_another_tower_is_refused(config, family, features, tmp_path):
    await LearnerHandle(make_learner(config, family, features)).save(tmp_path, 1, {}, keep=1)
    other = make_learner(config, family, features)
    before, other.frozen_digest = trained_state(other), "0" * 64
    with torch.no_grad():
        for parameter in other.trained.values():
            parameter.zero_()
    with pytest.raises(UserError, match=r"student\.path .*: its audio tower or adapter is not the one that .*step-0"):
        await LearnerHandle(other).load(newest_checkpoint(tmp_path))
    assert all((tensor == 0).all() for tensor in trained_state(other).values())
    assert any((tensor != 0).any() for tensor in before.values())


async def test_nothing_is_written_once_the_tower_has_changed(config, family, features, tmp_path):
    learner = make_learner(config, family, features)
    with torch.no_grad():
        learner.policy.model.multi_modal_projector.linear.bias[0] += 1e-7
    handle = LearnerHandle(learner)
    with pytest.raises(FrozenPartChangedError):
        await handle.save(tmp_path / "checkpoints", 1, {}, keep=1)
    with pytest.raises(FrozenPartChangedError):
        await handle.export(tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


class Listening:
    """A sender that keeps what it is given."""

    def send(self, version, tensors):
        specs, self.found = list(tensors.specs), [(name, tensor.clone()) for name, tensor in tensors]
        assert [(s.name, s.shape, s.dtype) for s in specs] == [
            (name, tuple(tensor.shape), "float32") for name, tensor in self.found
        ]
        self.places = {tensor.data_ptr() for _, tensor in tensors}
        self.thread = threading.current_thread().name
        return pb.WeightManifest(version=version)


async def test_a_version_is_the_trained_tensors_sent_from_the_learners_thread(config, family, features, clips):
    learner, sender = make_learner(config, family, features), Listening()
    handle = LearnerHandle(learner)
    await handle.step(1, batch(family, clips))
    assert (await handle.publish(1, sender)).version == 1
    assert_same_tensors(dict(sender.found), trained_state(learner))
    assert {name for name, _ in sender.found} == {
        name for name in hub_state(family, learner.policy) if not family.is_frozen(name)
    }
    assert sender.thread.startswith("compute")
    assert sender.places == {parameter.data_ptr() for parameter in learner.trained.values()}  # nothing was copied


def test_schedules():
    linear = OptimiserSettings(learning_rate=1.0, warmup_steps=2)
    assert [learning_rate(linear, s, 6) for s in range(1, 7)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert learning_rate(OptimiserSettings(learning_rate=1.0, schedule="constant"), 9, 9) == 1.0
    cosine = OptimiserSettings(learning_rate=1.0, schedule="cosine")
    assert learning_rate(cosine, 1, 10) == 1.0
    assert 0 < learning_rate(cosine, 10, 10) < 0.05
