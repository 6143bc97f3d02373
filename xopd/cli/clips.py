"""Look at the clips of a manifest before a run does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from xopd.data import Item
from xopd.data.audio import AudioError, AudioRules, check_header, fetch_audio, read_header
from xopd.data.places import is_local


def bad_headers(items: Sequence[Item], rules: AudioRules) -> Iterator[tuple[Item, AudioError]]:
    """Look at size and header of every clip on this machine's disks; yields those that a run would refuse for them."""
    for item in items:
        if is_local(item.audio.uri):
            try:
                _check_file(Path(item.audio.uri), rules)
            except AudioError as error:
                yield item, error


def bad_clips(items: Sequence[Item], rules: AudioRules) -> Iterator[tuple[Item, AudioError]]:
    """Read and decode every clip as a run would; yields those that it would refuse."""
    for item in items:
        try:
            fetch_audio(item.audio.uri, item.audio.sha256, item.audio.sample_rate, rules)
        except AudioError as error:
            yield item, error


def _check_file(path: Path, rules: AudioRules) -> None:
    if not path.is_file():
        raise AudioError("missing", str(path), "there is no such file")
    if path.stat().st_size > rules.max_bytes:
        raise AudioError("size", str(path), f"has more than {rules.max_bytes:,} bytes (data.max_audio_bytes)")
    check_header(read_header(path), str(path), rules.max_seconds)
