"""Fuzz every decoder of the wire, guided by coverage, for some seconds (`make fuzz SECONDS=60`).

A decoder may refuse an input with its one documented error; any other exception, a hang or a run out of memory ends the
fuzzing with another status than 0, and the input is kept in the folder that `--keep` names. `--seconds 0` only repeats
the inputs given as arguments, such as one that was kept.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import atheris
from google.protobuf.message import DecodeError, Message

with atheris.instrument_imports(include=["xopd.wire", "xopd.scoring.answers"]):
    from tests.fuzz.mutator import mutate
    from tests.fuzz.seeds import CORPUS, KINDS, REFUSALS, SEEDS, decode_any

LONGEST_INPUT = 65_536
SECONDS_PER_INPUT = 5
MEGABYTES = 1024
BYTEWISE = 0.2
"""Share of inputs whose bytes are changed rather than their fields."""


def decode_one(data: bytes) -> None:
    """The fuzz target: the first byte chooses the decoder, the rest is the message."""
    if not data:
        return
    kind = KINDS[data[0] % len(KINDS)]
    try:
        message = decode_any(kind, data[1:])
    except REFUSALS as error:
        if not str(error):
            raise AssertionError("refused without a reason") from None
        return
    if isinstance(message, Message):
        again = decode_any(kind, message.SerializeToString())
        # Compared as bytes: a message with NaN in a field without a meaning differs from itself.
        assert again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


def change(data: bytes, longest: int, seed: int) -> bytes:
    """The fuzzer's next input, made of an earlier one: some fields changed, or now and then some bytes."""
    rng = random.Random(seed)
    if not data or rng.random() < BYTEWISE:
        return bytes(atheris.Mutate(data, longest))
    kind = data[0] % len(KINDS)
    message = type(SEEDS[KINDS[kind]][0])()
    try:
        message.ParseFromString(data[1:])
    except DecodeError:
        message.CopyFrom(rng.choice(SEEDS[KINDS[kind]]))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        mutate(message, rng)
    return (bytes([kind]) + message.SerializeToString())[:longest]


def main() -> None:
    """Fuzz; does not return."""
    parser = argparse.ArgumentParser(description="Fuzz every decoder of the wire.")
    parser.add_argument("--seconds", type=int, default=60, help="how long (default 60); 0: repeat the inputs given")
    parser.add_argument("--keep", type=Path, default=Path(".cache/fuzz"), help="folder for inputs that break something")
    parser.add_argument("--seed", type=int, default=0, help="0 takes another one each time")
    parser.add_argument("inputs", nargs="*", type=Path, help="inputs to repeat")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    limits = [f"-timeout={SECONDS_PER_INPUT}", f"-rss_limit_mb={MEGABYTES}", f"-max_len={LONGEST_INPUT}"]
    arguments = [sys.argv[0], *limits, f"-artifact_prefix={options.keep}/", f"-seed={options.seed}"]
    if options.seconds:
        # New finds go to the first folder; the committed seeds stay as they are.
        arguments += [f"-max_total_time={options.seconds}", "-print_final_stats=1", tempfile.mkdtemp(), str(CORPUS)]
    else:
        arguments += [str(path) for path in options.inputs]
    atheris.Setup(arguments, decode_one, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
