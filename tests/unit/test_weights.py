"""Weight versions held against what was announced and against the student's checkpoint, before anything is applied."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save

from tests.random_models import make_student
from xopd.config import Config
from xopd.families import open_family
from xopd.families.tensors import hub_state
from xopd.v1 import weights_pb2 as pb
from xopd.weights import TensorsInMemory, TensorSpec
from xopd.weights.base import VersionChangedError, WeightsUnavailableError
from xopd.weights.contents import TrainedTensors
from xopd.weights.store import StoreReceiver, StoreSender, missing_store, remove_leftovers
from xopd.weights.transports import Receivers, make_sender, receiver_settings

TRAINED = TrainedTensors("float32", {"a.weight": (2, 3), "b.weight": (4,)})


def tensors(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.ones(2, 3), "b.weight": torch.zeros(4), **changes}


def manifest_of(path: Path, data: bytes, **changes) -> pb.WeightManifest:
    """Write `data` as a version, and give the manifest that fits it, but for `changes`."""
    path.write_bytes(data)
    fields = {"version": 3, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data), "tensor_count": 2}
    return pb.WeightManifest(**{**fields, "uri": str(path), **changes})


def test_the_trained_tensors_are_those_of_the_checkpoint(tmp_path):
    family = open_family(str(make_student(tmp_path / "student")))
    trained = TrainedTensors.of(family, "float32")
    state = hub_state(family, family.load_policy(torch.float32))
    assert trained.shapes == {name: tuple(t.shape) for name, t in state.items() if not family.is_frozen(name)}
    trained.check_specs(0, TensorsInMemory({n: state[n] for n in trained.shapes}).specs)
    assert TrainedTensors.from_plain(trained.as_plain()) == trained


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"a.weight": torch.ones(2, 3)}, "lacks 'b.weight', which the student's checkpoint has"),
        (tensors(c=torch.ones(1)), "holds 'c', which is no trained tensor here"),
        (tensors(**{"../../etc/passwd": torch.ones(1)}), "holds '../../etc/passwd'"),
        (tensors(**{"a.weight": torch.ones(3, 2)}), r"a.weight has the shape \[3, 2\], not \[2, 3\]"),
        (tensors(**{"b.weight": torch.zeros(4, dtype=torch.bfloat16)}), "b.weight is bfloat16, not float32"),
        (tensors(**{"b.weight": torch.tensor([0.0, torch.nan, 0.0, 0.0])}), "b.weight holds NaN or infinity"),
        (tensors(**{"b.weight": torch.tensor([0.0, -torch.inf, 0.0, 0.0])}), "b.weight holds NaN or infinity"),
    ],
)
def test_what_is_not_trained_is_rejected_by_name(tmp_path, given, words):
    manifest = manifest_of(tmp_path / "a.safetensors", save(given), tensor_count=len(given))
    with pytest.raises(WeightsUnavailableError, match=f"weight version 3.*{words}"):
        StoreReceiver(str(tmp_path), TRAINED).check(manifest)


@pytest.fixture
def sent(tmp_path):
    """(manifest, root, path) of a version in a store."""
    root = tmp_path / "weights"
    manifest = StoreSender(str(root), "run", keep=2).send(1, TensorsInMemory(tensors()))
    [path] = root.glob("*.safetensors")
    return manifest, str(root), path


def test_a_version_that_was_sent_is_received(sent):
    manifest, root, path = sent
    assert manifest.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (manifest.size_bytes, manifest.tensor_count) == (path.stat().st_size, 2)
    assert (manifest.run_id, manifest.version, manifest.transport) == ("run", 1, "store")
    assert StoreSender(root, "run", keep=2).fault_of(manifest) is None
    receiver = StoreReceiver(root, TRAINED)
    for _ in range(2):
        receiver.check(manifest)
        found = dict(receiver.tensors(manifest))
        assert {n: t.tolist() for n, t in found.items()} == {n: t.tolist() for n, t in tensors().items()}
    assert {n: t.tolist() for n, t in load_file(path).items()} == {n: t.tolist() for n, t in tensors().items()}


def test_a_version_passes_through_a_store_that_is_not_local():
    sender = StoreSender("memory:///weights", "run", keep=2)
    manifest = sender.send(1, TensorsInMemory(tensors()))
    assert sender.fault_of(manifest) is None
    receiver = StoreReceiver("memory:///weights", TRAINED)
    assert receiver.misconfigured(manifest) is None
    receiver.check(manifest)
    assert [name for name, _ in receiver.tensors(manifest)] == list(TRAINED.shapes)
    fsspec.filesystem("memory").rm("/weights", recursive=True)
    assert "cannot be read" in str(sender.fault_of(manifest))


def test_a_damaged_version_is_rejected(sent):
    manifest, root, path = sent
    whole = path.read_bytes()
    for data, words in (
        (bytes([whole[0] ^ 1]) + whole[1:], "has SHA-256"),
        (whole[:-1] + b"\xff", "has SHA-256"),
        (whole[:-1], f"has {len(whole) - 1:,} bytes, its manifest says {len(whole):,}"),
        (whole + b"\0", "has more bytes"),
        (b"", "has 0 bytes"),
    ):
        path.write_bytes(data)
        with pytest.raises(WeightsUnavailableError, match=words):
            StoreReceiver(root, TRAINED).check(manifest)
        assert words in str(StoreSender(root, "run", keep=2).fault_of(manifest))
    path.unlink()
    with pytest.raises(WeightsUnavailableError, match="cannot be read"):
        StoreReceiver(root, TRAINED).check(manifest)


def test_a_file_that_fits_its_manifest_but_is_no_version_is_rejected(tmp_path):
    path, receiver = tmp_path / "a.safetensors", StoreReceiver(str(tmp_path), TRAINED)
    good = save(tensors())
    header = int.from_bytes(good[:8], "little")
    for data, words in (
        (b"no weights" * 50, "is no safetensors file .its header is said to have"),
        ((2**40).to_bytes(8, "little") + good[8:], "is no safetensors file .its header is said to have"),
        (good[:8] + b"[" + good[9:], "is no safetensors file .its header is none"),
        (good.replace(b'"F32"', b'"F99"', 1), "is no safetensors file .its header is none"),
        (good.replace(b"[24,40]", b"[20,36]"), "the values of 'b.weight' do not lie where they must"),
        (good.replace(b"[24,40]", b"[24,39]"), "the values of 'b.weight' do not lie where they must"),
        (good[: 8 + header + 30], "is no safetensors file .it ends too early"),
    ):
        with pytest.raises(WeightsUnavailableError, match=words):
            receiver.check(manifest_of(path, data))
    with pytest.raises(WeightsUnavailableError, match="holds 2 tensors, its manifest says 9"):
        receiver.check(manifest_of(path, good, tensor_count=9))
    receiver.check(manifest_of(path, good))


def test_an_announcement_is_not_taken_at_its_word(sent, tmp_path):
    manifest, root, path = sent
    words = rf"is announced with {2**40:,} bytes; this student's have at most {TRAINED.most_bytes:,}"
    with pytest.raises(WeightsUnavailableError, match=words):
        StoreReceiver(root, TRAINED).check(manifest_of(path, path.read_bytes(), size_bytes=2**40))
    secret = tmp_path / "secret"
    secret.write_bytes(path.read_bytes())
    for uri, words in ((str(secret), "outside of"), ("http://169.254.169.254/a", "has the scheme http")):
        elsewhere = pb.WeightManifest()
        elsewhere.CopyFrom(manifest)
        elsewhere.uri = uri
        with pytest.raises(WeightsUnavailableError, match=words):
            StoreReceiver(root, TRAINED).check(elsewhere)


def test_what_is_yielded_is_what_was_checked(sent):
    manifest, root, path = sent
    receiver = StoreReceiver(root, TRAINED)
    with pytest.raises(WeightsUnavailableError, match="weight version 1 was not checked"):
        next(receiver.tensors(manifest))
    receiver.check(manifest)
    whole = path.read_bytes()
    with path.open("r+b") as file:  # the last value of the second tensor
        file.seek(-1, 2)
        file.write(b"\x40")
    received = receiver.tensors(manifest)
    assert next(received)[0] == "a.weight"
    with pytest.raises(WeightsUnavailableError, match=r"b\.weight has changed since it was checked"):
        next(received)
    path.write_bytes(whole)
    receiver.check(manifest)
    with path.open("r+b") as file:
        file.truncate(len(whole) - 1)
    with pytest.raises(WeightsUnavailableError, match=r"b\.weight has changed since it was checked"):
        list(receiver.tensors(manifest))
    # A version that goes, or makes room for another, after it was checked is still the one that was checked.
    path.write_bytes(whole)
    receiver.check(manifest)
    path.unlink()
    path.write_bytes(b"another")
    assert len(list(receiver.tensors(manifest))) == 2
    with pytest.raises(WeightsUnavailableError, match="was not checked"):
        next(receiver.tensors(manifest))


def test_a_rejected_version_leaves_nothing_to_yield(sent):
    manifest, root, path = sent
    receiver = StoreReceiver(root, TRAINED)
    receiver.check(manifest)
    path.write_bytes(b"damaged")
    with pytest.raises(WeightsUnavailableError, match="has 7 bytes"):
        receiver.check(manifest)
    with pytest.raises(WeightsUnavailableError, match="was not checked"):
        next(receiver.tensors(manifest))


def test_the_oldest_versions_go_and_leftovers_too(tmp_path):
    sender = StoreSender(str(tmp_path), "run", keep=2)
    for version in (1, 2, 3, 3):
        sender.send(version, TensorsInMemory(tensors()))
    names = ["run-v00000002.safetensors", "run-v00000003.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    (tmp_path / names[0]).unlink()
    sender.send(4, TensorsInMemory(tensors()))
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[1], "run-v00000004.safetensors"]
    (tmp_path / "torn.part").touch()
    assert remove_leftovers(str(tmp_path)) == 3
    assert remove_leftovers("s3://bucket/weights") == remove_leftovers(str(tmp_path / "nowhere")) == 0


def test_a_version_is_never_sent_with_other_tensors(sent):
    _, root, path = sent
    sender = StoreSender(root, "run", keep=2)
    manifest = sender.send(1, TensorsInMemory(tensors()))
    path.unlink()
    with pytest.raises(VersionChangedError, match="weight version 1 was sent before with other tensors"):
        sender.send(1, TensorsInMemory(tensors(c=torch.ones(1))))
    assert list(path.parent.iterdir()) == []
    assert sender.send(1, TensorsInMemory(tensors())).sha256 == manifest.sha256


class FullDisk(TensorsInMemory):
    """Tensors of which the second meets a full disk."""

    def __iter__(self):
        for name, tensor in super().__iter__():
            if name == "b.weight":
                raise OSError(errno.ENOSPC, "No space left on device")
            yield name, tensor


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    sender = StoreSender(str(tmp_path), "run", keep=2)
    with pytest.raises(OSError, match="No space left"):
        sender.send(1, FullDisk(tensors()))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_not_mounted_is_told_from_one_version_that_is_missing(sent, tmp_path):
    manifest, root, path = sent
    receiver = StoreReceiver(root, TRAINED)
    assert missing_store(manifest, root) is receiver.misconfigured(manifest) is None
    path.rename(tmp_path / "weights" / "other.safetensors")
    assert missing_store(manifest, root) is None
    (tmp_path / "weights" / "other.safetensors").unlink()
    assert missing_store(manifest, root) == tmp_path / "weights"
    assert "is missing or empty on this pod; mount the same volume" in str(receiver.misconfigured(manifest))
    manifest.uri = "http://elsewhere/weights"
    assert missing_store(manifest, root) is None


def test_transports_are_found_by_name(tmp_path):
    config = Config.model_validate(
        {
            "data": {"manifest": "items.jsonl"},
            "student": {"path": "student"},
            "teacher": {"path": "teacher"},
            "weights": {"uri": str(tmp_path)},
        }
    )
    sender = make_sender(config, "run")
    manifest = sender.send(1, TensorsInMemory(tensors()))
    receivers = Receivers.from_plain(Receivers(receiver_settings(config), TRAINED).as_plain())
    receivers.of(manifest).check(manifest)
    manifest.transport = ""  # of a trainer that knew no other
    assert len(list(receivers.of(manifest).tensors(manifest))) == 2
    manifest.transport = "pigeon"
    with pytest.raises(WeightsUnavailableError, match="weight version 1 travels by 'pigeon'; this pod knows store"):
        receivers.of(manifest)


def test_a_spec_says_what_a_tensor_is():
    assert TensorSpec.of("a", torch.zeros(2, 3, dtype=torch.bfloat16)) == TensorSpec("a", (2, 3), "bfloat16")
