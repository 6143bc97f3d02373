"""Clips in every state of disrepair: each is refused by one sentence, and only for its own fault."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clips import FAULTS, rules, sha256_of, speechlike, write_bad_clips
from tests.random_models import make_student
from xopd.config.schema import DataSettings
from xopd.data import load_items
from xopd.data.audio import AudioError, AudioRules, decode_audio, fetch_audio
from xopd.data.features import FeatureCache
from xopd.data.places import PlaceError, Places
from xopd.errors import UserError
from xopd.families import open_family


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return write_bad_clips(tmp_path_factory.mktemp("bad"))


def fetch(path: Path, rate: int = 16000, **limits):
    digest = sha256_of(path) if path.is_file() else "0" * 64
    return fetch_audio(str(path), digest, rate, rules(path.parent, **limits))


NAMES = (
    "missing.flac", "text.wav", "nothing.wav", "folder.wav", "cut.wav", "cut.flac", "cut.aiff", "cut.mp3",
    "empty.wav", "silent.wav", "whisper.wav", "cancelled.wav", "nan.wav", "infinite.wav", "unscaled.wav", "array.wav",
    "slow.wav", "fast.wav", "long.flac",
)  # fmt: skip


def test_every_bad_clip_is_listed(bad) -> None:
    assert set(NAMES) == set(bad)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_clip_is_refused_by_name(bad, name) -> None:
    path, words = bad[name]
    with pytest.raises(AudioError, match=words) as refused:
        fetch(path)
    assert str(path) in str(refused.value)
    assert refused.value.reason == FAULTS[name.split(".")[0]]


def test_ten_minutes_are_refused_by_the_header_alone(bad, monkeypatch) -> None:
    def _decoded(*_, **__):
        raise AssertionError("decoded before its header was looked at")

    monkeypatch.setattr(soundfile.SoundFile, "read", _decoded)
    with pytest.raises(AudioError, match=r"600\.0 s"):
        fetch(bad["long.flac"][0])


def test_a_large_file_is_not_read_to_its_end(tmp_path, monkeypatch) -> None:
    path = tmp_path / "large.wav"
    path.touch()
    os.truncate(path, 2**40)  # a sparse terabyte
    with pytest.raises(AudioError, match=r"more than 1,000,000 bytes") as refused:
        fetch_audio(str(path), "0" * 64, 16000, rules(tmp_path, max_bytes=10**6))
    assert refused.value.reason == "size"


def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="it is no file"):
        fetch(tmp_path / "pipe.wav")


def test_stereo_is_mixed_and_a_wav_from_a_pipe_is_taken(tmp_path) -> None:
    sound = speechlike(0.5, 16000)
    soundfile.write(tmp_path / "two.wav", np.stack([sound, 0 * sound], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(fetch(tmp_path / "two.wav"), sound / 2, atol=1e-7)
    piped = bytearray((tmp_path / "two.wav").read_bytes())
    piped[4:8] = b"\xff" * 4
    (tmp_path / "piped.wav").write_bytes(piped)
    np.testing.assert_allclose(fetch(tmp_path / "piped.wav"), sound / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 22050, 24000, 44100, 48000])
def test_the_students_features_do_not_depend_on_the_files_rate(tmp_path, rate) -> None:
    """The same sound at another rate: resampled, the frozen tower hears the same."""
    family = open_family(str(make_student(tmp_path / "student")))
    encoder = family.load_audio_encoder(torch.float32)
    features = []
    for each in (16000, rate):
        path = tmp_path / f"{each}.wav"
        soundfile.write(path, speechlike(1.0, each), each, subtype="FLOAT")
        cache = FeatureCache(tmp_path / str(each), encoder, family.sample_rate, rules(tmp_path))
        features.append(cache.get(str(path), sha256_of(path)))
    assert features[0].shape == features[1].shape
    spread = features[0].std()
    assert (features[0] - features[1]).pow(2).mean().sqrt() < 0.05 * spread
    # A wrong rate taken at its word is another sound.
    path = tmp_path / "wrong.wav"
    soundfile.write(path, speechlike(1.0, rate)[: int(1.0 * rate)], 16000, subtype="FLOAT")
    wrong = FeatureCache(tmp_path / "wrong", encoder, 16000, rules(tmp_path)).get(str(path), sha256_of(path))
    same = min(len(wrong), len(features[0]))
    assert (features[0][:same] - wrong[:same]).pow(2).mean().sqrt() > 0.2 * spread


SOUND = speechlike(0.25, 16000)


def _file(suffix: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, SOUND, 16000, format=suffix)
    return buffer.getvalue()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["WAV", "FLAC", "OGG", "AIFF"]).map(_file),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    st.integers(0, 10**6),
)
def test_a_damaged_file_decodes_or_is_refused(data, flips, cut) -> None:
    damaged = bytearray(data[: max(1, len(data) - cut % len(data))] if cut % 3 == 0 else data)
    for place, value in flips:
        damaged[place % len(damaged)] = value
    try:
        samples = decode_audio(bytes(damaged), "clip", 16000, 30.0)
    except AudioError:
        return
    assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all()
    assert 0 < len(samples) <= 30 * 16000


@settings(deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", b"RIFF\x10\0\0\0WAVEfmt ", b"fLaC", b"OggS", b"ID3"]))
def test_noise_is_no_audio(data, magic) -> None:
    with pytest.raises(AudioError):
        decode_audio(magic + data, "clip", 16000, 30.0)


# Places.


def settings_of(manifest: Path, **fields) -> AudioRules:
    return AudioRules.of(DataSettings(manifest=str(manifest), **fields))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("/etc/passwd", "leads to /etc/passwd, outside of"),
        ("file:///etc/passwd", "leads to /etc/passwd, outside of"),
        ("FILE:///etc/passwd", "leads to /etc/passwd, outside of"),
        ("{root}/../../etc/passwd", "outside of"),
        ("file://{root}/%2e%2e/secret", "outside of"),
        ("{root}/link/passwd", "leads to /etc/passwd, outside of"),
        ("http://169.254.169.254/latest/meta-data", "has the scheme http; file may be read"),
        ("https://example.org/a.wav", "has the scheme https"),
        ("s3://bucket/a.wav", "has the scheme s3"),
        ("memory://a.wav", "has the scheme memory"),
        ("local:///etc/passwd", "has the scheme local"),
        ("filecache::file:///etc/passwd", "is a chain of URIs"),
        ("zip://passwd::/etc/shadow.zip", "is a chain of URIs"),
        ("", "is no URI"),
        ("{root}/a\0.wav", "is no URI"),
        ("{root}/" + "a" * 5000, "(is no path|cannot be read)"),
    ],
)
def test_a_uri_that_must_not_be_followed(tmp_path, uri, words) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(AudioError, match=words) as refused:
        fetch_audio(uri.format(root=tmp_path), "0" * 64, 16000, settings_of(tmp_path / "items.jsonl"))
    assert refused.value.reason in ("place", "missing")


def test_remote_roots() -> None:
    places = Places.below(["s3://bucket/clips", "https://data.example/sets/"], ["file", "s3", "https"])
    for uri in ("s3://bucket/clips/a.wav", "https://data.example/sets/b/c.wav?token=1"):
        assert places.check(uri) == uri
    for uri in (
        "s3://bucket/clipsextra/a.wav", "s3://other/clips/a.wav", "s3://bucket/clips/../secret",
        "https://data.example/sets/%2e%2e/secret", "https://data.example.evil/sets/a.wav", "https://evil/sets/a.wav",
        "https://me@data.example/sets/a.wav", "https://data.example/sets/..\\..\\x", "/etc/passwd", "http://data.example/sets/a",
    ):  # fmt: skip
        with pytest.raises(PlaceError):
            places.check(uri)


@settings(deadline=None)
@given(st.text(max_size=60), st.sampled_from(["", "/", "file://", "/../", "s3://", "https://"]))
def test_any_text_is_below_the_root_or_refused(text, head) -> None:
    places = Places.below(["/srv/clips", "s3://bucket/clips"], ["file", "s3"])
    try:
        found = places.check(head + text)
    except PlaceError:
        return
    assert found.startswith(("/srv/clips", "s3://bucket/clips/"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"audio_roots": ["clips"]}, "give an absolute folder"),
        ({"audio_roots": ["s3://bucket"]}, "scheme is not among uri_schemes"),
        ({"uri_schemes": ["ftp"]}, "uri_schemes"),
        ({"uri_schemes": []}, "uri_schemes"),
    ],
)
def test_settings_that_make_no_sense(fields, words) -> None:
    with pytest.raises(ValueError, match=words):
        DataSettings(manifest="items.jsonl", **fields)


def write_manifest(folder: Path, uri: str) -> Path:
    audio = {"uri": uri, "sha256": "0" * 64, "seconds": 1.0, "sample_rate": 16000}
    item = {"id": "a", "family": "f", "split": "train", "text": "one", "answer": "one", "audio": audio}
    path = folder / "items.jsonl"
    path.write_text(json.dumps(item))
    return path


@pytest.mark.parametrize("uri", ["../a.wav", "/etc/passwd", "http://169.254.169.254/a.wav", "audio/../../a.wav"])
def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path, uri) -> None:
    with pytest.raises(UserError, match=r"items.jsonl:1: item a: `audio.uri` .*data.audio_roots"):
        load_items(write_manifest(tmp_path, uri))


def test_a_manifest_may_name_what_lies_below_another_root(tmp_path) -> None:
    there = tmp_path / "there"
    here = tmp_path / "here"
    there.mkdir(), here.mkdir()
    rules_ = settings_of(here / "items.jsonl", audio_roots=[str(there)])
    (item,) = load_items(write_manifest(here, str(there / "a.wav")), rules_.places)
    assert item.audio.uri == str(there / "a.wav")


def test_the_hash_is_that_of_the_bytes(tmp_path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, SOUND, 16000)
    with pytest.raises(AudioError, match="SHA-256") as refused:
        fetch_audio(str(path), hashlib.sha256(b"other").hexdigest(), 16000, rules(tmp_path))
    assert refused.value.reason == "hash"


def test_an_mp3_is_read_wherever_it_comes_from(tmp_path) -> None:
    """From memory libsndfile knows an MP3 only sometimes: it must not depend on what was opened before."""
    sound = speechlike(1.0, 16000)
    soundfile.write(tmp_path / "a.mp3", sound, 16000)
    data = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "no-suffix").write_bytes(data)
    code = (
        "import sys; from xopd.data.audio import decode_audio, read_header; from pathlib import Path;"
        "path = Path(sys.argv[1]); samples = decode_audio(path.read_bytes(), 'a', 16000, 30.0);"
        "print(len(samples), read_header(path).frames)"
    )
    for name in ("a.mp3", "no-suffix"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.split() == ["16000", "16000"]
    tagged = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + b"\0" * 10 + data
    np.testing.assert_allclose(decode_audio(tagged, "a", 16000, 30.0), decode_audio(data, "a", 16000, 30.0))
    assert np.corrcoef(decode_audio(data, "a", 16000, 30.0), sound)[0, 1] > 0.9
