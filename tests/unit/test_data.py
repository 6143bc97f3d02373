"""Manifests, clips, vocabularies, answers and intervals."""

import hashlib
import json

import numpy as np
import pytest
import soundfile

from tests.clips import rules
from tests.random_models import make_tokenizer
from xopd.data import load_items
from xopd.data.audio import AudioError, fetch_audio
from xopd.errors import UserError
from xopd.evals.intervals import accuracy_of, paired_bootstrap
from xopd.prompts.vocabulary import describe_difference, fingerprint_vocabulary, vocabulary_of


def item(**changes):
    return {
        "id": "a", "kind": "task", "family": "f", "split": "train", "text": "one plus one", "answer": "two",
        "audio": {"uri": "audio/a.flac", "sha256": "0" * 64, "seconds": 1.0, "sample_rate": 16000}, **changes,
    }  # fmt: skip


def manifest(tmp_path, *lines):
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_items_are_read_and_their_audio_is_absolute(tmp_path):
    (found,) = load_items(manifest(tmp_path, item()))
    assert found.audio.uri == str(tmp_path / "audio/a.flac")


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["{"], r"items.jsonl:1: is not JSON"),
        ([item(), item()], r"items.jsonl:2: item a stands already on line 1"),
        ([item(text=None)], r"items.jsonl:1: item a: .*teacher reads it"),
        ([item(colour="red")], r"item a: `colour`"),
        ([item(audio={"uri": "x"})], r"item a: `audio.sha256`"),
        ([], r"holds no items"),
    ],
)
def test_a_bad_manifest_is_one_sentence(tmp_path, lines, sentence):
    with pytest.raises(UserError, match=sentence):
        load_items(manifest(tmp_path, *lines))


def test_a_missing_manifest(tmp_path):
    with pytest.raises(UserError, match="no such manifest"):
        load_items(tmp_path / "nowhere.jsonl")


def write_clip(path, seconds=0.5, rate=16000):
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, int(rate * seconds)), rate)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_clips_are_checked_decoded_and_resampled(tmp_path):
    path = tmp_path / "a.wav"
    digest = write_clip(path, rate=8000)
    samples = fetch_audio(str(path), digest, 16000, rules(tmp_path))
    assert samples.dtype == np.float32
    assert len(samples) == 8000
    with pytest.raises(AudioError, match="SHA-256"):
        fetch_audio(str(path), "0" * 64, 16000, rules(tmp_path))
    with pytest.raises(AudioError, match="lasts"):
        fetch_audio(str(path), digest, 16000, rules(tmp_path, max_seconds=0.1))
    with pytest.raises(AudioError, match="cannot be read"):
        fetch_audio(str(tmp_path / "b.wav"), digest, 16000, rules(tmp_path))
    path.write_text("no audio")
    with pytest.raises(AudioError, match="not audio"):
        fetch_audio(str(path), hashlib.sha256(b"no audio").hexdigest(), 16000, rules(tmp_path))


def test_vocabularies_are_told_apart_by_name():
    same, other = vocabulary_of(make_tokenizer()), vocabulary_of(make_tokenizer("<|extra|>"))
    assert describe_difference(same, vocabulary_of(make_tokenizer())) is None
    assert "'<|extra|>' is absent for the student" in describe_difference(same, other)
    words = {i: f"w{i}" for i in range(3000)}
    a, b = fingerprint_vocabulary(words, {}), fingerprint_vocabulary({**words, 2000: "other"}, {})
    assert describe_difference(a, b) == "tokens between ids 1024 and 2047 differ"
    assert "3000 tokens, the teacher 2999" in describe_difference(
        a, fingerprint_vocabulary({i: words[i] for i in range(2999)}, {})
    )


def test_intervals():
    half = accuracy_of([True, False] * 50)
    assert half.accuracy == 0.5
    assert half.ci95 == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert accuracy_of([True] * 20).ci95[1] == pytest.approx(1.0)
    better = paired_bootstrap([False] * 60 + [True] * 40, [True] * 90 + [False] * 10)
    assert better.mean_difference == pytest.approx(0.5)
    assert 0.35 < better.ci95[0] < 0.5 < better.ci95[1] < 0.65
    with pytest.raises(ValueError, match="paired"):
        paired_bootstrap([True], [])
