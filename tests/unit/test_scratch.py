"""The temporary folder of a run: its own, found again, emptied, removed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from xopd.errors import UserError
from xopd.service.folders import emptied, scratch_path


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()


def test_each_run_has_its_own_and_always_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert scratch_path(Path("runs/a")) == scratch_path(tmp_path / "runs" / "a") != scratch_path(Path("runs/b"))
    assert scratch_path(Path("runs/a")).parent == tmp_path / "tmp"
    # A Unix socket's path has at most 107 characters, and vLLM's names have 36.
    assert len(scratch_path(tmp_path / ("long" * 60)).name) < 20


def test_what_a_killed_run_left_is_gone(tmp_path):
    path = scratch_path(tmp_path)
    (path / "folder").mkdir(parents=True)
    (path / "folder" / "socket").touch()
    with emptied(path):
        assert list(path.iterdir()) == []
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "left").touch()
    assert not path.exists()


def test_what_is_not_ours_is_one_sentence_and_stays(tmp_path):
    path, elsewhere = scratch_path(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    path.symlink_to(elsewhere)
    with pytest.raises(UserError, match="TMPDIR"), emptied(path):
        pass
    assert (elsewhere / "precious").exists()
