"""Look at the clips of a manifest before a run does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from xopd.data import Item
from xopd.data.audio import AudioError, AudioHeader, AudioRules, check_header, fetch_audio, read_header
from xopd.data.places import is_local


def read_headers(items: Sequence[Item], rules: AudioRules) -> Iterator[tuple[Item, AudioHeader | AudioError]]:
    """Look at size and header of every clip on this machine's disks; an error is what a run would refuse it for."""
    for item in items:
        if is_local(item.audio.uri):
            try:
                yield item, _header_of(Path(item.audio.uri), rules)
            except AudioError as error:
                yield item, error


def bad_clips(items: Sequence[Item], rules: AudioRules) -> Iterator[tuple[Item, AudioError]]:
    """Read and decode every clip as a run would; yields those that it would refuse."""
    for item in items:
        try:
            fetch_audio(item.audio.uri, item.audio.sha256, item.audio.sample_rate, rules)
        except AudioError as error:
            yield item, error


def _header_of(path: Path, rules: AudioRules) -> AudioHeader:
    if not path.is_file():
        raise AudioError("missing", str(path), "there is no such file")
    if path.stat().st_size > rules.max_bytes:
        raise AudioError("size", str(path), f"has more than {rules.max_bytes:,} bytes (data.max_audio_bytes)")
    header = read_header(path)
    check_header(header, str(path), rules.max_seconds)
    rules.check_heard(header.seconds, str(path))
    return header
