"""Fetch a clip by URI, check it, and decode it.

Refused before anything is decoded: a URI that may not be followed, too many bytes, another hash, a header that tells of
too long a clip. Then: what is cut short, holds NaN, or is silent. docs/INPUT.md lists it all.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import fsspec
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from xopd.config.schema import DataSettings
from xopd.data.containers import extent_of, patched
from xopd.data.places import PlaceError, Places, is_local
from xopd.errors import first_line

LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000
"""Sample rates that are resampled to the model's own (Hz); others tell of a broken header."""
MOST_CHANNELS = 2
"""Stereo is mixed down to its mean. More channels have no such rule: beams of an array would cancel each other."""
SILENCE_PEAK = 1e-3
"""A clip whose loudest sample stays below it (-60 dBFS, 33 steps of 16 bits) carries no instruction."""
LOUDEST_PEAK = 16.0
"""A float file may pass full scale (1.0) by a little; beyond this its samples are in another unit."""
MISSING_SECONDS = 0.1
"""A clip that decodes to this much less than its header says is cut short; compressed headers may be off by less."""
ROUNDING_S = 1e-3
"""What resampling may add to a clip that fills the window exactly, and that nobody would miss (seconds)."""

Reason = Literal["place", "missing", "size", "hash", "format", "length", "samples", "silent"]
REASONS: tuple[Reason, ...] = ("place", "missing", "size", "hash", "format", "length", "samples", "silent")


class AudioError(ValueError):
    """A clip that cannot be used; the text names its URI and what is wrong, `reason` the kind of fault."""

    def __init__(self, reason: Reason, uri: str, fault: str) -> None:
        """Hold the reason; `fault` is a clause whose subject is the clip."""
        super().__init__(f"audio {uri}: {fault}")
        self.reason = reason


class Hearing(Protocol):
    """What an audio tower can take; every `xopd.families.ModelFamily` says it."""

    sample_rate: int
    max_audio_samples: int
    """The tower's window (samples at `sample_rate`): what a clip holds beyond it would not be heard."""

    def audio_tokens(self, samples: int) -> int:
        """Tokens that a clip of so many samples takes in the place of its placeholder; 0 where it is too short."""
        ...


@dataclass(frozen=True)
class AudioRules:
    """What clips are accepted."""

    places: Places
    max_seconds: float
    max_bytes: int
    shortest_s: float = 0.0
    """A shorter clip gives the student no audio token (seconds)."""
    window_s: float = math.inf
    """What lies beyond it, the student would not hear (seconds)."""

    @classmethod
    def of(cls, settings: DataSettings, hearing: Hearing | None = None) -> AudioRules:
        """The rules that a configuration sets, and what the student's audio tower can take.

        Without roots of its own, clips lie below the manifest's folder.
        """
        roots = settings.audio_roots or [str(Path(settings.manifest).parent.resolve())]
        places = Places.below(roots, settings.uri_schemes)
        rules = cls(places, settings.max_audio_seconds, settings.max_audio_bytes)
        if hearing is None:
            return rules
        rate = hearing.sample_rate
        least = bisect.bisect_left(range(rate), 1, key=hearing.audio_tokens)
        return replace(rules, shortest_s=least / rate, window_s=hearing.max_audio_samples / rate)

    def check_heard(self, seconds: float, uri: str) -> None:
        """Refuse a clip of a length that the student would not hear, or not hear to its end. Raises AudioError."""
        if seconds < self.shortest_s:
            raise AudioError(
                "length",
                uri,
                f"lasts {1000 * seconds:.1f} ms, which gives no audio token; {1000 * self.shortest_s:.1f} ms do",
            )
        if seconds > self.window_s + ROUNDING_S:
            raise AudioError(
                "length",
                uri,
                f"lasts {seconds:.1f} s; the student's audio tower hears {self.window_s:g} s, and would miss the rest"
                " (whatever data.max_audio_seconds says)",
            )


@dataclass(frozen=True)
class AudioHeader:
    """What a file says of itself."""

    frames: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return self.frames / self.rate


def fetch_audio(uri: str, sha256: str, sample_rate: int, rules: AudioRules) -> NDArray[np.float32]:
    """Read, check and decode one clip.

    Args:
        uri: fsspec URI or path of an audio file.
        sha256: hash of the file's bytes, lower-case hex.
        sample_rate: rate wanted (Hz); other rates are resampled.
        rules: what is accepted.

    Returns:
        Mono samples, full scale 1.0, shape [samples], float32, finite.

    Raises:
        AudioError: if the clip cannot be used.
    """
    data = read_clip(uri, rules)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise AudioError("hash", uri, f"has SHA-256 {found[:12]}…, its item says {sha256[:12]}…")
    samples = decode_audio(data, uri, sample_rate, rules.max_seconds)
    rules.check_heard(len(samples) / sample_rate, uri)
    return samples


def read_clip(uri: str, rules: AudioRules) -> bytes:
    """The bytes of a clip, from an allowed place and within the allowed size. Raises AudioError."""
    try:
        place = rules.places.check(uri)
    except PlaceError as error:
        raise AudioError("place", uri, str(error)) from None
    try:
        # A pipe or a device has no end, and opening one may take for ever.
        if is_local(place) and Path(place).exists() and not Path(place).is_file():
            raise OSError("it is no file")
        with fsspec.open(place, "rb") as file:
            data: bytes = file.read(rules.max_bytes + 1)
    except Exception as error:  # each kind of store has its own errors
        raise AudioError("missing", uri, f"cannot be read ({first_line(error)})") from None
    if len(data) > rules.max_bytes:
        raise AudioError("size", uri, f"has more than {rules.max_bytes:,} bytes (data.max_audio_bytes)")
    return data


def decode_audio(data: bytes, uri: str, sample_rate: int, max_seconds: float) -> NDArray[np.float32]:
    """Decode the bytes of a clip; `uri` is named in errors. Returns and raises as `fetch_audio` does."""
    extent = extent_of(io.BytesIO(data))
    try:
        with _opened(patched(data, extent)) as file:
            header = AudioHeader(file.frames, file.samplerate, file.channels)
            check_header(header, uri, max_seconds)
            samples = file.read(header.frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError) as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError("format", uri, f"is not audio that can be decoded ({first_line(error)})") from None
    missing = header.seconds - len(samples) / header.rate
    if max(missing, extent.missing_seconds(header.seconds)) > MISSING_SECONDS:
        raise AudioError("format", uri, "is cut short: its header tells of more than there is")
    if not np.isfinite(samples).all():
        raise AudioError("samples", uri, "holds samples that are NaN or infinite")
    mono: NDArray[np.float32] = samples.mean(axis=1, dtype=np.float32)
    peak = float(np.abs(mono).max(initial=0.0))
    if peak > LOUDEST_PEAK:
        raise AudioError("samples", uri, f"has a sample of {peak:.3g}; full scale is 1")
    if peak < SILENCE_PEAK:
        raise AudioError("silent", uri, f"is silent: its loudest sample is {peak:.1g} of full scale")
    return mono if header.rate == sample_rate else soxr.resample(mono, header.rate, sample_rate).astype(np.float32)


def check_header(header: AudioHeader, uri: str, max_seconds: float) -> None:
    """Hold a file's header against the rules, before anything is decoded. Raises AudioError."""
    if not LOWEST_RATE <= header.rate <= HIGHEST_RATE:
        allowed = f"{LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz are resampled"
        raise AudioError("format", uri, f"has a sample rate of {header.rate:,} Hz; {allowed}")
    if not 1 <= header.channels <= MOST_CHANNELS:
        raise AudioError("format", uri, f"has {header.channels} channels; mono and stereo are taken")
    if not 0 < header.seconds <= max_seconds:
        allowed = f"more than 0 and at most {max_seconds:g} s are allowed (data.max_audio_seconds)"
        raise AudioError("length", uri, f"lasts {header.seconds:.1f} s; {allowed}")


def read_header(path: Path) -> AudioHeader:
    """The header of a local file. Raises AudioError if it is no audio."""
    try:
        with path.open("rb") as opened:
            extent = extent_of(opened)
            opened.seek(0)
            as_it_is = not extent.patches and not _is_mpeg(opened.read(3))
        source = soundfile.SoundFile(path) if as_it_is else _opened(patched(path.read_bytes(), extent))
        with source as file:
            return AudioHeader(file.frames, file.samplerate, file.channels)
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise AudioError("format", str(path), f"is not audio that can be decoded ({first_line(error)})") from None


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[soundfile.SoundFile]:
    """The bytes of a file, opened by libsndfile."""
    if not _is_mpeg(data[:3]):
        with soundfile.SoundFile(_Bytes(data)) as file:
            yield file
        return
    # Without a name that ends so, libsndfile 1.2 opens one MP3 file and refuses the next with a reason that is none.
    with tempfile.NamedTemporaryFile(suffix=".mp3") as named:
        named.write(data)
        named.flush()
        with soundfile.SoundFile(named.name) as file:
            yield file


def _is_mpeg(head: bytes) -> bool:
    """Whether a file begins like MP3: with an ID3 tag, or with a frame's eleven set bits."""
    return head.startswith(b"ID3") or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


class _Bytes(io.BytesIO):
    """A file in memory. In a damaged one libsndfile seeks to before its beginning, and means to be told so quietly."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()
