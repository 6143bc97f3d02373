"""Checkpoints whose files are damaged, missing or something else: one sentence that names setting, file and fault."""

from __future__ import annotations

import codecs
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from xopd_teacher.engines.open import open_engine

from tests.random_models import make_student, make_teacher
from xopd.config.schema import TeacherSettings
from xopd.errors import UserError
from xopd.families import open_family
from xopd.families.checkpoint_files import check_weight_files, read_checkpoint_config
from xopd.families.tensors import hub_state

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4294967296\n"
TENSORS = {f"layers.{i}.weight": torch.arange(i, i + 600.0).reshape(20, 30) for i in range(4)}
SHARDS = {"model-00001-of-00002.safetensors": (0, 1), "model-00002-of-00002.safetensors": (2, 3)}


def whole(folder: Path) -> Path:
    """One file of weights."""
    folder.mkdir(exist_ok=True)
    save_file(TENSORS, folder / "model.safetensors", metadata={"format": "pt"})
    return folder / "model.safetensors"


def sharded(folder: Path, **more: str) -> Path:
    """Two files of weights and the index that names them; `more` are tensors of the index alone."""
    folder.mkdir(exist_ok=True)
    places = dict(more)
    for shard, numbers in SHARDS.items():
        own = {f"layers.{i}.weight": TENSORS[f"layers.{i}.weight"] for i in numbers}
        save_file(own, folder / shard)
        places |= dict.fromkeys(own, shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 9600}, "weight_map": places}))
    return index


def sentence(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        check_weight_files("teacher.path", folder)
    text = str(refused.value)
    assert text.startswith(f"teacher.path {folder}") and "\n" not in text and text.endswith(".")
    return text


def test_whole_weights_pass(tmp_path) -> None:
    whole(tmp_path / "one")
    sharded(tmp_path / "many")
    for name in ("one", "many"):
        check_weight_files("teacher.path", tmp_path / name)


def test_a_file_that_is_cut_short_anywhere(tmp_path) -> None:
    path = whole(tmp_path)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for size in (1, 7, 8, 9, header - 1, header, header + 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        needed = 9 if size < 8 else header if size < header else len(data)
        if size >= 8:
            assert sentence(tmp_path) == (
                f"teacher.path {path}: is cut short ({size:,} of {needed:,} bytes); copy it again."
            )
        else:
            assert f"{path}: is cut short ({size} of" in sentence(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; copy it again"),
        (POINTER, "is a pointer of git-lfs in the place of the file; run `git lfs pull` there"),
        (b"<!DOCTYPE html><html>sign in</html>" * 40, "is no whole safetensors file"),
        (b"\0" * 5000, "is no whole safetensors file"),  # space that a download had reserved
        (b"\x10" + b"\0" * 7 + b"{not JSON at all" + b"\0" * 100, "is no whole safetensors file"),
        (b"PK\x03\x04" + b"\0" * 3000, "is no whole safetensors file"),  # a renamed .bin
    ],
)
def test_a_file_that_is_something_else(tmp_path, content, words) -> None:
    path = whole(tmp_path)
    path.write_bytes(content)
    assert sentence(tmp_path).startswith(f"teacher.path {path}: {words}")


def test_a_file_with_more_than_its_header_tells(tmp_path) -> None:
    path = whole(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0" * 10)
    assert "is no whole safetensors file" in sentence(tmp_path)


def test_a_link_that_leads_nowhere_and_a_folder(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    path.symlink_to(tmp_path / "blobs" / "0")
    assert f"{path}: cannot be read (No such file or directory)" in sentence(tmp_path)
    path.unlink()
    path.mkdir()
    assert f"{path}: cannot be read (Is a directory)" in sentence(tmp_path)


@pytest.mark.parametrize("shard", SHARDS)
def test_a_shard_at_fault_is_named(tmp_path, shard) -> None:
    sharded(tmp_path)
    path = tmp_path / shard
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert sentence(tmp_path).startswith(
        f"teacher.path {path}: is cut short ({len(data) - 1:,} of {len(data):,} bytes)"
    )
    path.write_bytes(POINTER)
    assert sentence(tmp_path).startswith(f"teacher.path {path}: is a pointer of git-lfs")
    path.unlink()
    assert sentence(tmp_path) == (
        f"teacher.path {path}: is missing, and model.safetensors.index.json has 2 of 4 tensors there; copy it."
    )


def test_all_shards_missing(tmp_path) -> None:
    sharded(tmp_path)
    for shard in SHARDS:
        (tmp_path / shard).unlink()
    assert "model-00001-of-00002.safetensors: is missing" in sentence(tmp_path)


def test_a_tensor_that_is_not_where_the_index_has_it(tmp_path) -> None:
    first, second = SHARDS
    sharded(tmp_path, **{"layers.9.weight": second})
    assert sentence(tmp_path).startswith(f"teacher.path {tmp_path / second}: lacks the tensor layers.9.weight")
    sharded(tmp_path)
    shutil.copy(tmp_path / second, tmp_path / first)  # a shard of the right length under the wrong name
    assert sentence(tmp_path).startswith(f"teacher.path {tmp_path / first}: lacks the tensor layers.0.weight")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (POINTER, "is a pointer of git-lfs"),
        (b'{"weight_map": {"a', "is no JSON (Unterminated string"),
        (b"[1]", "holds no JSON object"),
        (b"{}", "holds no `weight_map`"),
        (b'{"weight_map": {}}', "holds no `weight_map`"),
        (b'{"weight_map": {"a": 3}}', "holds no `weight_map`"),
        (b'{"weight_map": {"a": "../../secret"}}', "../../secret: is missing"),
        (b"[" * 100_000, "is no JSON"),
    ],
)
def test_an_index_at_fault(tmp_path, content, words) -> None:
    index = sharded(tmp_path)
    index.write_bytes(content)
    assert words in sentence(tmp_path)


def test_weights_in_another_format_or_none(tmp_path) -> None:
    assert sentence(tmp_path) == f"teacher.path {tmp_path}: holds no safetensors file; give a checkpoint folder."
    assert "holds no safetensors file" in sentence(tmp_path / "nowhere")
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.gguf", "consolidated.00.pth"):
        (tmp_path / name).write_bytes(b"1")
        assert f"holds no safetensors file, only {name}, which is not read; save the checkpoint" in sentence(tmp_path)
        (tmp_path / name).unlink()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 500), st.binary(min_size=1, max_size=6)), max_size=3), st.integers(0, 3000))
def test_any_damage_is_a_sentence_or_no_damage(tmp_path_factory, changes, lost) -> None:
    folder = tmp_path_factory.getbasetemp() / "damage"
    path = whole(folder)
    data = bytearray(path.read_bytes())
    for at, piece in changes:
        data[at : at + len(piece)] = piece
    path.write_bytes(data[: len(data) - lost])
    found = None
    try:
        check_weight_files("student.path", folder)
        load_file(path)
    except UserError as error:
        found = str(error)
    assert found is None or found.startswith(f"student.path {path}: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (POINTER, "is a pointer of git-lfs"),
        (b'{"model_type": "qwen2", ', "is no JSON (Expecting property name"),
        (b"{}", "names no model_type"),
        (b'{"model_type": ""}', "names no model_type"),
        (b'["qwen2"]', "holds no JSON object"),
        (codecs.BOM_UTF8 + b'{"model_type": "qwen2"}', "begins with a byte order mark; save it as UTF-8 without one"),
        ('{"model_type": "qwen2"}'.encode("utf-16"), "cannot be read: it is UTF-16; save it as UTF-8"),
        ('{"model_type": "zwölf"}'.encode("latin-1"), "cannot be read: it is not UTF-8 (byte 0xf6)"),
    ],
)
def test_a_configuration_at_fault(tmp_path, content, words) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_checkpoint_config("student.path", tmp_path)
    assert str(refused.value).startswith(f"student.path {path}: {words}")
    for opened in (lambda: open_family(str(tmp_path)), lambda: open_engine(TeacherSettings(path=str(tmp_path)))):
        with pytest.raises(UserError, match=r"(student|teacher)\.path .*config\.json: "):
            opened()


def test_no_configuration(tmp_path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError) as refused:
            read_checkpoint_config("student.path", folder)
        assert str(refused.value) == f"student.path {folder}: holds no config.json; give a checkpoint folder."


def test_no_model_library_is_needed(tmp_path) -> None:
    whole(tmp_path)
    code = (
        "import sys, pathlib\n"
        "from xopd.families.checkpoint_files import check_weight_files\n"
        f"check_weight_files('student.path', pathlib.Path({str(tmp_path)!r}))\n"
        "print([m for m in ('torch', 'transformers', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What loads a checkpoint says the same.


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return make_student(tmp_path_factory.mktemp("models") / "student")


def damaged(student: Path, folder: Path, change) -> str:
    """A copy of the student whose tensors `change` was given."""
    shutil.copytree(student, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


LOADERS = {
    "policy": lambda path: open_family(path).load_policy(torch.float32),
    "audio encoder": lambda path: open_family(path).load_audio_encoder(torch.float32),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_student_that_is_cut_short(student, tmp_path, load) -> None:
    path = damaged(student, tmp_path / "cut", lambda tensors: None)
    file = Path(path) / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(size // 2)
    with pytest.raises(UserError) as refused:
        load(path)
    assert str(refused.value) == f"student.path {file}: is cut short ({size // 2:,} of {size:,} bytes); copy it again."


@pytest.mark.parametrize(
    ("lacking", "loaders"),
    [
        (["language_model.model.layers.1.mlp.up_proj.weight"], ["policy"]),
        (["language_model.model.embed_tokens.weight", "language_model.model.norm.weight"], ["policy"]),
        (["language_model.lm_head.weight"], ["policy"]),
        (["audio_tower.conv1.bias"], ["policy", "audio encoder"]),
        (["multi_modal_projector.linear.weight"], ["policy", "audio encoder"]),
    ],
)
def test_a_student_that_lacks_tensors(student, tmp_path, lacking, loaders) -> None:
    path = damaged(student, tmp_path / "lacking", lambda tensors: [tensors.pop(name) for name in lacking])
    for name in loaders:
        with pytest.raises(UserError) as refused:
            LOADERS[name](path)
        assert str(refused.value) == (f"student.path {path}: lacks the tensor {lacking[0]}; copy the checkpoint again.")


@pytest.mark.parametrize("name", ["language_model.model.norm.weight", "audio_tower.layer_norm.bias"])
def test_a_student_with_a_tensor_of_another_shape(student, tmp_path, name) -> None:
    path = damaged(student, tmp_path / "other", lambda tensors: tensors.update({name: tensors[name][:3].clone()}))
    for load in LOADERS.values() if name.startswith("audio_tower") else [LOADERS["policy"]]:
        with pytest.raises(UserError) as refused:
            load(path)
        assert f"student.path {path}: the tensor {name} has another shape than its config.json" in str(refused.value)


def test_a_student_whose_head_is_tied_is_not_given_a_random_one(student, tmp_path) -> None:
    path = damaged(student, tmp_path / "tied", lambda tensors: tensors.pop("language_model.lm_head.weight"))
    config = json.loads((Path(path) / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = True
    (Path(path) / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"student\.path .*tied: has no .*lm_head\.weight, since its head is tied"):
        LOADERS["policy"](path)


def test_a_whole_student_is_loaded_as_it_is(student, tmp_path) -> None:
    family = open_family(str(student))
    tensors = hub_state(family, family.load_policy(torch.float32))
    for name, tensor in load_file(student / "model.safetensors").items():
        assert torch.equal(tensors[name], tensor)


def test_a_teacher_that_is_cut_short(tmp_path) -> None:
    teacher = make_teacher(tmp_path / "teacher")
    file = teacher / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(size - 1)
    for engine in ("transformers", "vllm"):
        with pytest.raises(UserError) as refused:
            open_engine(TeacherSettings(path=str(teacher), engine=engine))
        assert (
            str(refused.value) == f"teacher.path {file}: is cut short ({size - 1:,} of {size:,} bytes); copy it again."
        )
