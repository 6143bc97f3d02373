"""Rules for clips, and files of audio in every state of disrepair."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import soundfile

from xopd.data.audio import AudioRules
from xopd.data.places import Places

FAULTS = {
    "missing": "missing", "folder": "missing", "text": "format", "nothing": "format", "cut": "format",
    "array": "format", "slow": "format", "fast": "format", "empty": "length", "long": "length", "nan": "samples",
    "infinite": "samples", "unscaled": "samples", "silent": "silent", "whisper": "silent", "cancelled": "silent",
}  # fmt: skip
"""Kind of fault of each file of `write_bad_clips`, by its name without the suffix."""


def rules(root: Path | str, max_seconds: float = 30.0, max_bytes: int = 2**26) -> AudioRules:
    """Clips below `root`."""
    return AudioRules(Places.below([str(root)]), max_seconds, max_bytes)


def speechlike(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Noise in the band of speech (below 3.4 kHz), in bursts: the same sound at any rate. Shape [samples], float32."""
    times = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(seed)
    tones = rng.uniform(100, 3400, 60)
    phases = rng.uniform(0, 2 * np.pi, 60)
    sound = np.sin(2 * np.pi * tones[:, None] * times + phases[:, None]).mean(axis=0)
    return (sound * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * times))).astype(np.float32)


def sha256_of(path: Path) -> str:
    """Hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_bad_clips(folder: Path) -> dict[str, tuple[Path, str]]:
    """One file a fault: name to (path, words of the sentence that refuses it)."""
    sound = speechlike(1.0, 16000)
    clips: dict[str, tuple[Path, str]] = {}

    def _write(name: str, words: str, samples: np.ndarray, rate: int = 16000, **options: str) -> Path:
        path = folder / name
        soundfile.write(path, samples, rate, **options)
        clips[name] = (path, words)
        return path

    def _cut(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])

    clips["missing.flac"] = (folder / "missing.flac", "cannot be read")
    clips["text.wav"] = (folder / "text.wav", "is not audio")
    (folder / "text.wav").write_text("this is a text file\n" * 20)
    clips["nothing.wav"] = (folder / "nothing.wav", "is not audio")
    (folder / "nothing.wav").write_bytes(b"")
    clips["folder.wav"] = (folder / "folder.wav", "cannot be read")
    (folder / "folder.wav").mkdir(exist_ok=True)
    _cut(_write("cut.wav", "is cut short", sound))
    _cut(_write("cut.aiff", "is cut short", sound))
    _cut(_write("cut.mp3", "is cut short", sound))
    _cut(_write("cut.flac", "(is cut short|is not audio)", sound))
    _write("empty.wav", "lasts 0.0 s", sound[:0])
    _write("silent.wav", "is silent", 0 * sound)
    _write("whisper.wav", "is silent", 5e-4 * sound / np.abs(sound).max())
    _write("cancelled.wav", "is silent", np.stack([sound, -sound], axis=1))
    _write("nan.wav", "NaN", np.where(np.arange(len(sound)) == 777, np.nan, sound), subtype="FLOAT")
    _write("infinite.wav", "NaN or infinite", np.where(np.arange(len(sound)) == 7, np.inf, sound), subtype="FLOAT")
    _write("unscaled.wav", "full scale is 1", 30000 * sound, subtype="FLOAT")
    _write("array.wav", "has 6 channels", np.repeat(sound[:, None], 6, axis=1))
    _write("slow.wav", "sample rate of 1,000 Hz", sound, rate=1000)
    _write("fast.wav", "sample rate of 400,000 Hz", sound, rate=400_000)
    # Ten minutes of nothing: small in FLAC, and never decoded.
    _write("long.flac", "lasts 600.0 s", np.zeros(600 * 16000, dtype=np.float32))
    return clips
