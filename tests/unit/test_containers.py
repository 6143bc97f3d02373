"""Whole files whose containers tell a wrong size, or none: every sample is there. Files cut short: refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clips import rules, sha256_of
from xopd.data.audio import AudioError, decode_audio, fetch_audio, read_header
from xopd.data.containers import extent_of, patched

RATE = 16000
FRAMES = 8001
PCM = np.random.default_rng(0).integers(-16000, 16000, FRAMES).astype("<i2")
BYTES = np.random.default_rng(1).integers(0, 256, FRAMES).astype(np.uint8)  # an odd number of bytes
SUBFORMAT = struct.pack("<I", 1)[:2] + bytes.fromhex("000000001000800000aa00389b71")
LIST = b"LIST\x04\0\0\0INFO"
CHUNKS_BEFORE = {
    "nothing": b"",
    "LIST": LIST,
    "JUNK": b"JUNK\x03\0\0\0abc\0",
    "bext": b"bext" + struct.pack("<I", 602) + bytes(602),
    "fact": b"fact\x04\0\0\0" + struct.pack("<I", FRAMES),
}


def fmt(bits: int = 16, channels: int = 1, extensible: bool = False) -> bytes:
    block = channels * bits // 8
    body = struct.pack("<HHIIHH", 0xFFFE if extensible else 1, channels, RATE, RATE * block, block, bits)
    if extensible:
        body += struct.pack("<HHI", 22, bits, 4) + SUBFORMAT
    return b"fmt " + struct.pack("<I", len(body)) + body


def wav(data: bytes, *, said: int | None = None, riff: int | None = None, before: bytes = b"", after: bytes = b"",
        head: bytes | None = None) -> bytes:  # fmt: skip
    """A WAV file; `said` stands in its data chunk and `riff` in its head in the place of the right sizes."""
    chunks = b"WAVE" + (head or fmt()) + before
    chunks += b"data" + struct.pack("<I", len(data) if said is None else said) + data + after
    return b"RIFF" + struct.pack("<I", len(chunks) if riff is None else riff) + chunks


def decoded(data: bytes) -> np.ndarray:
    return decode_audio(data, "clip", RATE, 30.0)


def assert_whole(data: bytes, wanted: np.ndarray = PCM) -> None:
    """Every sample is there."""
    np.testing.assert_array_equal(decoded(data), wanted / np.float32(32768))


WHOLE = len(wav(PCM.tobytes())) - 8
RIFF_SIZES = {
    "right": WHOLE, "8 too large": WHOLE + 8, "counts a pad byte": WHOLE + 1, "sox": 0x7FFFF000 + 36,
    "Kaldi": 2_000_000_036, "ffmpeg": 0xFFFFFFFF, "zero": 0, "8 too small": WHOLE - 8,
    "a second too large": WHOLE + 32000, "the header alone": 36,
}  # fmt: skip
DATA_SIZES = {
    "right": len(PCM.tobytes()), "zero": 0, "Kaldi": 2_000_000_000, "sox": 0x7FFFF000, "arecord": 0x80000000,
    "ffmpeg": 0xFFFFFFFF, "largest signed": 0x7FFFFFFF, "counts a pad byte": len(PCM.tobytes()) + 1,
}  # fmt: skip


@pytest.mark.parametrize("said", DATA_SIZES.values(), ids=DATA_SIZES)
@pytest.mark.parametrize("riff", RIFF_SIZES.values(), ids=RIFF_SIZES)
def test_a_wav_whose_sizes_are_off(riff, said) -> None:
    assert_whole(wav(PCM.tobytes(), riff=riff, said=said))


@pytest.mark.parametrize("said", [None, 0, 2_000_000_000, 0xFFFFFFFF])
@pytest.mark.parametrize("before", CHUNKS_BEFORE.values(), ids=CHUNKS_BEFORE)
@pytest.mark.parametrize("extensible", [False, True])
def test_chunks_before_the_samples(before, said, extensible) -> None:
    assert_whole(wav(PCM.tobytes(), said=said, riff=0, before=before, head=fmt(extensible=extensible)))


@pytest.mark.parametrize("riff", [None, 0, 0xFFFFFFFF, 50])
@pytest.mark.parametrize("after", [LIST, b"id3 \x03\0\0\0abc\0", LIST + b"bext\x02\0\0\0ab"])
def test_chunks_after_the_samples_are_no_samples(after, riff) -> None:
    assert_whole(wav(PCM.tobytes(), riff=riff, after=after))


@pytest.mark.parametrize("riff", [None, 0, 0xFFFFFFFF])
@pytest.mark.parametrize("said", [FRAMES, FRAMES + 1])
@pytest.mark.parametrize("after", [b"", b"\0", b"\0" + LIST, LIST])
def test_an_odd_number_of_bytes_with_and_without_its_padding(said, after, riff) -> None:
    data = wav(BYTES.tobytes(), said=said, riff=riff, after=after, head=fmt(bits=8))
    found = decoded(data)
    # A size that counts the padding takes that byte for a sample.
    assert len(found) - FRAMES in ((0, 1) if said > FRAMES else (0,))
    np.testing.assert_array_equal(found[:FRAMES], ((BYTES.astype(np.float32) - 128) / 128))


def test_stereo_float_and_companded_wavs_from_a_pipe() -> None:
    sound = PCM[1:] / np.float32(40000)  # an even number: padding would be one more sample
    for channels, subtype in ((1, "FLOAT"), (2, "PCM_24"), (2, "ULAW"), (1, "IMA_ADPCM"), (1, "PCM_U8")):
        whole = encoded("WAV", np.repeat(sound[:, None], channels, axis=1), subtype)
        at = whole.index(b"data") + 4
        for said in (0, 2_000_000_000, 0xFFFFFFFF):
            piped = whole[:4] + b"\xff" * 4 + whole[8:at] + struct.pack("<I", said) + whole[at + 4 :]
            np.testing.assert_array_equal(decoded(piped), decoded(whole))


@pytest.mark.parametrize("lost", [3300, len(PCM.tobytes()) // 2, len(PCM.tobytes()) - 2])
@pytest.mark.parametrize("riff", RIFF_SIZES.values(), ids=RIFF_SIZES)
@pytest.mark.parametrize("before", CHUNKS_BEFORE.values(), ids=CHUNKS_BEFORE)
def test_samples_that_are_promised_and_missing(before, riff, lost) -> None:
    cut = wav(PCM.tobytes(), riff=riff, before=before)[:-lost]
    with pytest.raises(AudioError, match="is cut short") as refused:
        decoded(cut)
    assert refused.value.reason == "format"


@pytest.mark.parametrize("lost", [1, 2, 3100])
def test_less_than_a_tenth_of_a_second_may_be_missing(lost) -> None:
    data = wav(PCM.tobytes())[:-lost]
    np.testing.assert_array_equal(decoded(data), PCM[: FRAMES - (lost + 1) // 2] / np.float32(32768))


def test_a_tenth_of_a_second_is_told_by_the_format_of_the_samples() -> None:
    """The same 3,300 bytes are 0.1 s of 16 bits at 16 kHz, and less of 24 bits in stereo."""
    sound = np.repeat(PCM[:, None] / np.float32(40000), 2, axis=1)
    assert len(decoded(encoded("WAV", sound, "PCM_24")[:-3300])) == FRAMES - 3300 // 6
    with pytest.raises(AudioError, match="is cut short"):
        decoded(encoded("WAV", sound, "PCM_24")[:-9900])


# Other containers.


def encoded(form: str, sound: np.ndarray = PCM, subtype: str | None = None, endian: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, RATE, format=form, subtype=subtype, endian=endian)
    return buffer.getvalue()


def with_number(data: bytes, name: bytes, skip: int, number: int, length: int, order: str) -> bytes:
    """The file with another number `skip` bytes after the first chunk of that name."""
    at = data.index(name) + skip
    return data[:at] + number.to_bytes(length, order) + data[at + length :]


SIZE_FIELDS = {
    # format, endian, name of the chunk, where its size stands from that name on, its bytes and their order, what the
    # size counts beside the samples.
    "RIFX": ("WAV", "BIG", b"data", 4, 4, "big", 0),
    "WAVEX": ("WAVEX", None, b"data", 4, 4, "little", 0),
    "RF64": ("RF64", None, b"ds64", 16, 8, "little", 0),
    "AIFF": ("AIFF", None, b"SSND", 4, 4, "big", 8),
    "AU": ("AU", None, b".snd", 8, 4, "big", 0),
    "AU, little": ("AU", "LITTLE", b"dns.", 8, 4, "little", 0),
    "W64": ("W64", None, b"data\xf3\xac", 16, 8, "little", 24),
    "CAF": ("CAF", None, b"data\0\0\0\0", 4, 8, "big", 4),
}


@pytest.mark.parametrize("name", SIZE_FIELDS)
@pytest.mark.parametrize(
    "open_end", [0, 2_000_000_000, 0x7F000000, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1]
)
def test_other_containers_whose_size_is_left_open(name, open_end) -> None:
    form, endian, chunk, skip, length, order, _ = SIZE_FIELDS[name]
    if open_end < 256**length:
        assert_whole(with_number(encoded(form, endian=endian), chunk, skip, open_end, length, order))


@pytest.mark.parametrize("name", SIZE_FIELDS)
def test_other_containers_that_are_cut_short(name) -> None:
    form, endian, chunk, skip, length, order, more = SIZE_FIELDS[name]
    whole = encoded(form, endian=endian)
    assert_whole(whole)
    for cut in (whole[:-3300], whole[:-12000]):
        with pytest.raises(AudioError, match="is cut short"):
            decoded(cut)
    promised = with_number(whole, chunk, skip, len(PCM) * 2 + more + 16000, length, order)
    with pytest.raises(AudioError, match="is cut short"):
        decoded(promised)
    assert_whole(with_number(whole, chunk, skip, len(PCM) * 2 + more + 1, length, order))  # a counted pad byte


def test_the_size_of_an_aiff_as_a_whole_is_not_believed() -> None:
    for subtype in ("PCM_16", "FLOAT", "ULAW"):
        whole = encoded("AIFF", PCM / np.float32(40000), subtype)
        for form in (0, 8, len(whole), len(whole) + 100_000, 0x7F000000, 0xFFFFFFFF):
            off = whole[:4] + form.to_bytes(4, "big") + whole[8:]
            np.testing.assert_array_equal(decoded(off), decoded(whole))
            with pytest.raises(AudioError, match="is cut short"):
                decoded(off[: len(off) // 2])


def test_bw64_is_read_as_rf64() -> None:
    broadcast = b"BW64" + encoded("RF64")[4:]
    assert_whole(broadcast)
    with pytest.raises(AudioError, match="is cut short"):
        decoded(broadcast[:-8000])


@pytest.mark.parametrize("frames", [1, 4096, FRAMES, 12345])
def test_a_flac_from_a_pipe(frames) -> None:
    sound = np.resize(PCM, frames)
    sound[0] = 16000
    whole = encoded("FLAC", sound)
    field = int.from_bytes(whole[18:26], "big")
    assert field % 2**36 == frames
    piped = whole[:18] + (field - frames).to_bytes(8, "big") + whole[26:]
    assert_whole(piped, sound)
    for cut in (piped[:-1], piped[: len(piped) // 2]):  # the last frame is not whole: the length is not known
        with pytest.raises(AudioError) as refused:
            decoded(cut)
        assert refused.value.reason in ("length", "format")


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64", "AIFF", "AU", "W64", "CAF"])
def test_a_file_without_samples_is_empty_not_cut_short(form) -> None:
    for more in (b"", LIST) if form.startswith("WAV") else (b"",):
        with pytest.raises(AudioError, match=r"lasts 0\.0 s"):
            decoded(encoded(form, PCM[:0]) + more)


@pytest.mark.parametrize(
    "data",
    [
        wav(PCM.tobytes(), said=0, riff=0),
        wav(PCM.tobytes(), said=0xFFFFFFFF, riff=0xFFFFFFFF),
        with_number(encoded("AIFF"), b"SSND", 4, 0, 4, "big"),
        with_number(encoded("CAF"), b"data\0\0\0\0", 4, 2**64 - 1, 8, "big"),
    ],
    ids=["WAV", "WAV of ffmpeg", "AIFF", "CAF"],
)
def test_the_header_alone_tells_the_length(tmp_path, data) -> None:
    path = tmp_path / "clip"
    path.write_bytes(data)
    assert read_header(path).frames == FRAMES
    assert len(fetch_audio(str(path), sha256_of(path), RATE, rules(tmp_path))) == FRAMES


FILES = [encoded(form) for form in ("WAV", "WAVEX", "RF64", "AIFF", "AU", "W64", "CAF", "FLAC")]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 150), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, 20_000),
)
def test_any_container_is_looked_at_without_a_failure(whole, changes, lost) -> None:
    data = bytearray(whole)
    for at, piece in changes:
        data[at : at + len(piece)] = piece
    cut = bytes(data[: max(0, len(data) - lost)])
    extent = extent_of(io.BytesIO(cut))
    assert 0 <= extent.present <= len(cut) and extent.missing >= 0
    assert len(patched(cut, extent)) == len(cut)
    try:
        samples = decode_audio(cut, "clip", RATE, 30.0)
    except AudioError:
        return
    assert samples.dtype == np.float32 and np.isfinite(samples).all()


@given(
    st.binary(max_size=80),
    st.sampled_from([b"RIFF\0\0\0\0WAVE", b"FORM\0\0\0\0AIFF", b".snd", b"caff\0\1\0\0", b"fLaC\0"]),
)
def test_noise_is_looked_at_without_a_failure(noise, head) -> None:
    extent = extent_of(io.BytesIO(head + noise))
    assert len(patched(head + noise, extent)) == len(head + noise)


def test_many_chunks_are_not_followed_for_ever() -> None:
    many = b"RIFF\0\0\0\0WAVE" + b"JUNK\0\0\0\0" * 2_000_000
    reads = []

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.append(size)
            return super().read(size)

    assert extent_of(Counted(many)).patches == ()
    assert len(reads) < 1000
