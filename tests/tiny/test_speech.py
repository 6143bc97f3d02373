"""Speech: speakers are split by construction, and a clip is a function of its text and delivery."""

import random

import numpy as np
import pytest
from tinyworld.speech import FACTORS, GRAIN, PITCHES, SAMPLE_RATE, sample_delivery, speakers, synthesise

pytest.importorskip("ttspico")


def test_speakers_share_neither_pitch_nor_factor() -> None:
    for table in (PITCHES, FACTORS):
        assert len(set().union(*table.values())) == sum(len(v) for v in table.values())
    names = [{f"{v}-{p}-{f}" for v, p, f in speakers(split)} for split in ("train", "dev", "test")]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]


def test_the_same_delivery_sounds_the_same_and_another_does_not() -> None:
    rng = random.Random(0)
    one, two = sample_delivery(rng, "train"), sample_delivery(rng, "train")
    first = synthesise("seven plus five", one)
    synthesise("something else between", two)
    assert np.array_equal(first, synthesise("seven plus five", one))
    assert not np.array_equal(first[:1000], synthesise("seven plus five", two)[:1000])


def test_clips_are_padded_and_whole_output_steps() -> None:
    delivery = sample_delivery(random.Random(3), "test", {"loudness": "loud"})
    clip = synthesise("listen", delivery)
    assert clip.dtype == np.float32
    assert len(clip) % GRAIN == 0
    speech = np.abs(clip[int(0.35 * SAMPLE_RATE) : int(0.5 * SAMPLE_RATE)]).max()
    assert np.abs(clip[: int(0.29 * SAMPLE_RATE)]).max() < 0.1 * speech
    assert np.abs(clip[-int(0.45 * SAMPLE_RATE) :]).max() < 0.1 * speech


@pytest.mark.parametrize(("trait", "value"), [("pace", "slow"), ("pace", "fast"), ("pitch", "high"), ("pitch", "low")])
def test_traits_decide_the_delivery(trait: str, value: str) -> None:
    rng = random.Random(5)
    for _ in range(20):
        delivery = sample_delivery(rng, "test", {trait: value})
        figure = delivery.rate if trait == "pace" else delivery.pitch
        assert (figure > 110) == (value in ("fast", "high"))
