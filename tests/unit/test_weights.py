"""Weight versions held against what was announced and against the student's checkpoint, before anything is applied."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save

from tests.random_models import make_student
from xopd.families import open_family
from xopd.families.tensors import hub_state
from xopd.v1 import weights_pb2 as pb
from xopd.weights import WeightStore, fetch_weights
from xopd.weights.base import WeightsUnavailableError
from xopd.weights.contents import TrainedTensors
from xopd.weights.store import missing_store, remove_leftovers

TRAINED = TrainedTensors("float32", {"a.weight": (2, 3), "b.weight": (4,)})


def tensors(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.ones(2, 3), "b.weight": torch.zeros(4), **changes}


def test_what_is_trained_is_taken():
    TRAINED.check(3, tensors())
    assert TrainedTensors.from_plain(TRAINED.as_plain()) == TRAINED
    assert TRAINED.most_bytes > len(save(tensors()))


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
def test_what_is_not_is_refused_by_name(given, words):
    with pytest.raises(WeightsUnavailableError, match=f"weight version 3.*{words}"):
        TRAINED.check(3, given)


def test_the_trained_tensors_are_read_from_the_checkpoint(tmp_path):
    family = open_family(str(make_student(tmp_path / "student")))
    trained = TrainedTensors.of(family, "float32")
    state = hub_state(family, family.load_policy(torch.float32))
    assert trained.shapes == {name: tuple(t.shape) for name, t in state.items() if not family.is_frozen(name)}


@pytest.fixture
def stored(tmp_path):
    """(manifest, root, path) of a version in a store."""
    root = tmp_path / "weights"
    manifest = WeightStore(str(root), "run", keep=2).put(1, save(tensors()), 2)
    [path] = root.glob("*.safetensors")
    return manifest, str(root), path


def test_a_stored_version_comes_back(stored):
    manifest, root, path = stored
    assert fetch_weights(manifest, root, TRAINED.most_bytes) == path.read_bytes()
    assert WeightStore(root, "run", keep=2).fault_of(manifest) is None


def test_a_damaged_version_is_refused(stored):
    manifest, root, path = stored
    whole = path.read_bytes()
    for data, words in (
        (bytes([whole[0] ^ 1]) + whole[1:], "has SHA-256"),
        (whole[:-1], f"has {len(whole) - 1:,} bytes, its manifest says {len(whole):,}"),
        (whole + b"\0", "has more bytes"),
    ):
        path.write_bytes(data)
        with pytest.raises(WeightsUnavailableError, match=words):
            fetch_weights(manifest, root, TRAINED.most_bytes)
        assert words in str(WeightStore(root, "run", keep=2).fault_of(manifest))
    path.unlink()
    with pytest.raises(WeightsUnavailableError, match="cannot be read"):
        fetch_weights(manifest, root, TRAINED.most_bytes)


def test_an_announcement_is_not_taken_at_its_word(stored, tmp_path):
    manifest, root, path = stored
    with pytest.raises(WeightsUnavailableError, match=r"is announced with .* bytes; this student's have at most 10"):
        fetch_weights(manifest, root, 10)
    secret = tmp_path / "secret"
    secret.write_bytes(path.read_bytes())
    for uri, words in ((str(secret), "outside of"), ("http://169.254.169.254/a", "has the scheme http")):
        elsewhere = pb.WeightManifest()
        elsewhere.CopyFrom(manifest)
        elsewhere.uri = uri
        with pytest.raises(WeightsUnavailableError, match=words):
            fetch_weights(elsewhere, root, TRAINED.most_bytes)


def test_the_oldest_versions_go_and_leftovers_too(tmp_path):
    store = WeightStore(str(tmp_path), "run", keep=2)
    for version in (1, 2, 3, 3):
        store.put(version, save(tensors()), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "run-v00000002.safetensors",
        "run-v00000003.safetensors",
    ]
    (tmp_path / "torn.part").touch()
    assert remove_leftovers(str(tmp_path)) == 3
    assert remove_leftovers("s3://bucket/weights") == remove_leftovers(str(tmp_path / "nowhere")) == 0


def test_a_store_that_is_not_mounted_is_told_from_one_version_that_is_missing(stored, tmp_path):
    manifest, root, path = stored
    assert missing_store(manifest, root) is None
    path.rename(tmp_path / "weights" / "other.safetensors")
    assert missing_store(manifest, root) is None
    (tmp_path / "weights" / "other.safetensors").unlink()
    assert missing_store(manifest, root) == tmp_path / "weights"
    manifest.uri = "http://elsewhere/weights"
    assert missing_store(manifest, root) is None
