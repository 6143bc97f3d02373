"""Fetch a clip by URI, check it by hash, and decode it."""

from __future__ import annotations

import hashlib
import io

import fsspec
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray


class AudioError(ValueError):
    """A clip that cannot be used; the text names its URI and what is wrong."""


def fetch_audio(uri: str, sha256: str, sample_rate: int, max_seconds: float) -> NDArray[np.float32]:
    """Read, check and decode one clip.

    Args:
        uri: fsspec URI or path of an audio file.
        sha256: hash of the file's bytes, lower-case hex.
        sample_rate: rate wanted (Hz); other rates are resampled.
        max_seconds: longer clips are refused.

    Returns:
        Mono samples in [-1, 1], shape [samples], float32.

    Raises:
        AudioError: if the file is missing, has another hash, is not audio, is empty or too long.
    """
    try:
        with fsspec.open(uri, "rb") as file:
            data: bytes = file.read()
    except (OSError, ValueError) as error:
        raise AudioError(f"audio {uri}: cannot be read ({error})") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise AudioError(f"audio {uri}: has SHA-256 {found[:12]}…, its item says {sha256[:12]}…")
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"audio {uri}: is not audio that can be decoded ({error})") from None
    seconds = len(samples) / rate
    if not 0 < seconds <= max_seconds:
        raise AudioError(f"audio {uri}: lasts {seconds:.1f} s; between 0 and {max_seconds:g} s are allowed")
    mono: NDArray[np.float32] = samples.mean(axis=1, dtype=np.float32)
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate).astype(np.float32)
