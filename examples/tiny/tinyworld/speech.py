"""How the questions sound: speakers, rates, loudness and noise, from SVOX Pico (package `ttspico`).

A speaker is (voice, pitch, vocal-tract factor). The speakers of train, dev and test share no pitch and no factor.
A clip is a pure function of its text and its `Delivery`: each clip gets a fresh engine, since Pico keeps
the state of its noise source from one utterance to the next.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import soxr

from .tasks import Split

SAMPLE_RATE = 16_000
LEAD_SECONDS, TAIL_SECONDS = 0.3, 0.5
GRAIN = 640  # samples: clips are whole multiples of 40 ms, the tower's output step

VOICES = ("en-GB", "en-US")
PITCHES: dict[Split, tuple[int, ...]] = {
    "train": (72, 80, 90, 100, 112, 124, 134),
    "dev": (83, 97, 121),
    "test": (76, 94, 106, 129),
}
FACTORS: dict[Split, tuple[float, ...]] = {
    "train": (0.92, 0.97, 1.0, 1.04, 1.09),
    "dev": (0.96, 1.03),
    "test": (0.945, 1.02, 1.065),
}
LOW_PITCHES, HIGH_PITCHES = range(0, 85), range(120, 200)  # pitches that count as a low and as a high voice

# Each question of the retention probe, its two classes, and how the answer is worded.
RETENTION: dict[str, tuple[str, tuple[str, str]]] = {
    "pitch": ("is the voice high or low", ("high", "low")),
    "pace": ("is the voice fast or slow", ("fast", "slow")),
    "loudness": ("is the voice loud or quiet", ("loud", "quiet")),
    "accent": ("is the voice british or american", ("british", "american")),
}

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Delivery:
    """How one clip is spoken. `rate` in Pico's per cent, `gain_db` of the peak re full scale, `snr_db` of the noise."""

    voice: str
    pitch: int
    factor: float
    rate: int
    gain_db: float
    snr_db: float
    seed: int

    @property
    def speaker(self) -> str:
        """The speaker's name: voice, pitch and vocal-tract factor."""
        return f"{self.voice}-{self.pitch}-{self.factor}"


def retention_response(answer: str) -> str:
    """The right response to a question of the retention probe."""
    return f"the voice is {answer} . answer {answer}"


def speakers(split: Split) -> list[tuple[str, int, float]]:
    """All (voice, pitch, factor) of a split."""
    return [(v, p, f) for v in VOICES for p in PITCHES[split] for f in FACTORS[split]]


def sample_delivery(rng: random.Random, split: Split, traits: dict[str, str] | None = None) -> Delivery:
    """A delivery by a speaker of the split; `traits` fixes classes of the retention probe."""
    traits = traits or {}
    pool = speakers(split)
    if "pitch" in traits:
        wanted = HIGH_PITCHES if traits["pitch"] == "high" else LOW_PITCHES
        pool = [s for s in pool if s[1] in wanted]
    if "accent" in traits:
        pool = [s for s in pool if (s[0] == "en-GB") == (traits["accent"] == "british")]
    voice, pitch, factor = rng.choice(pool)
    pace = {"fast": (146, 162), "slow": (74, 86)}.get(traits.get("pace", ""), (110, 145))
    gain = {"loud": (-4.0, -1.0), "quiet": (-24.0, -18.0)}.get(traits.get("loudness", ""), (-16.0, -2.0))
    return Delivery(
        voice,
        pitch,
        factor,
        rng.randint(*pace),
        round(rng.uniform(*gain), 2),
        round(rng.uniform(25, 45), 1),
        rng.getrandbits(32),
    )


def synthesise(text: str, delivery: Delivery) -> Waveform:
    """The clip [samples], float32 in [-1, 1], 16 kHz, with the silences before and after and the noise over all."""
    import ttspico

    engine = cast(Any, ttspico).TtsEngine(delivery.voice)
    # Pico's pitch is divided by the factor, so that only the vocal tract's length changes with the factor.
    engine.rate, engine.pitch = delivery.rate, round(delivery.pitch / delivery.factor)
    pcm = np.frombuffer(engine.speak(text=text), np.int16)
    if pcm.size == 0:
        raise RuntimeError(f"the synthesiser returned no sound for {text!r}")
    speech = pcm.astype(np.float32) / 32768.0
    loud = np.flatnonzero(np.abs(speech) > 0.01)
    speech = speech[loud[0] : loud[-1] + 1]
    speech = soxr.resample(speech, SAMPLE_RATE, SAMPLE_RATE / delivery.factor).astype(np.float32)
    speech *= 10 ** (delivery.gain_db / 20) / float(np.abs(speech).max())
    lead, tail = int(LEAD_SECONDS * SAMPLE_RATE), int(TAIL_SECONDS * SAMPLE_RATE)
    total = -(-(lead + len(speech) + tail) // GRAIN) * GRAIN
    clip = np.zeros(total, np.float32)
    clip[lead : lead + len(speech)] = speech
    noise_level = float(np.sqrt(np.mean(speech**2))) * 10 ** (-delivery.snr_db / 20)
    noise = np.random.default_rng(delivery.seed).standard_normal(total, dtype=np.float32)
    return np.clip(clip + noise_level * noise, -1.0, 1.0).astype(np.float32)
