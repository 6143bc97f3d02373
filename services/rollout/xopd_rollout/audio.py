"""A spoken prompt's clip, as vLLM takes it: the frozen tower's outputs, or the waveform.

Clips that arrive together are encoded together, in a thread, so that the event loop goes on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from xopd.config.schema import Config
from xopd.data.audio import AudioError, AudioRules, fetch_audio
from xopd.data.features import FeatureCache
from xopd.families import ModelFamily
from xopd.service.compute_thread import ComputeThread
from xopd.service.lifecycle import end_tasks
from xopd.v1 import trajectory_pb2 as pb
from xopd_rollout.metrics import RolloutMetrics

MAX_BATCH = 64
"""Most clips encoded at a time: bounds the memory of one pass through the tower."""


@dataclass(frozen=True)
class PreparedClip:
    """A clip as the engine takes it."""

    data: dict[str, Any]
    """vLLM's `multi_modal_data`."""
    tokens: int
    """Audio tokens that it takes in the prompt."""


class AudioInput(Protocol):
    """Turns a reference into what the engine takes."""

    async def get(self, audio: pb.AudioRef) -> PreparedClip:
        """One clip. Raises AudioError if it cannot be used."""
        ...

    async def close(self) -> None:
        """End background work."""
        ...


def open_audio_input(config: Config, family: ModelFamily, metrics: RolloutMetrics) -> AudioInput:
    """The way in that `student.audio_input` names. Loads the frozen tower for `features`: takes a second."""
    rules = AudioRules.of(config.data, family)
    if config.student.audio_input == "waveform":
        return WaveformInput(family, rules, metrics)
    encoder = family.load_audio_encoder(getattr(torch, config.student.dtype))
    cache = FeatureCache(
        config.student.feature_cache,
        encoder,
        family.sample_rate,
        rules,
        config.student.features_in_memory_gb,
        one_by_one=config.run.deterministic,
    )
    return FeatureInput(family, cache, metrics)


class WaveformInput:
    """Fetches and decodes; the engine encodes."""

    def __init__(self, family: ModelFamily, rules: AudioRules, metrics: RolloutMetrics) -> None:
        """Refuse clips that do not satisfy `rules`."""
        self.family = family
        self.rules = rules
        self.metrics = metrics

    async def get(self, audio: pb.AudioRef) -> PreparedClip:
        """Waveform of one clip."""
        with self.metrics.audio_seconds.time():
            wave = await asyncio.to_thread(fetch_audio, audio.uri, audio.sha256, self.family.sample_rate, self.rules)
        return PreparedClip(self.family.vllm_audio(None, wave), self.family.audio_tokens(len(wave)))

    async def close(self) -> None:
        """Nothing runs in the background."""


class FeatureInput:
    """Looks up or encodes, one batch at a time."""

    def __init__(self, family: ModelFamily, cache: FeatureCache, metrics: RolloutMetrics) -> None:
        """Use `cache` from one thread."""
        self.family = family
        self.cache = cache
        self.metrics = metrics
        self._waiting: asyncio.Queue[tuple[pb.AudioRef, asyncio.Future[torch.Tensor]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._compute = ComputeThread()

    async def get(self, audio: pb.AudioRef) -> PreparedClip:
        """Features of one clip."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        future: asyncio.Future[torch.Tensor] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((audio, future))
        features = await future
        return PreparedClip(self.family.vllm_audio(features, None), len(features))

    async def close(self) -> None:
        """End the background task."""
        if self._task is not None:
            await end_tasks([self._task])

    async def _serve(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            with self.metrics.audio_seconds.time():
                results = await self._compute.run(self._encode, [audio for audio, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _encode(self, clips: list[pb.AudioRef]) -> list[torch.Tensor | Exception]:
        try:
            return list(self.cache.get_many([(clip.uri, clip.sha256) for clip in clips]))
        except AudioError:
            # One bad clip must not fail those encoded with it.
            return [self._encode_one(clip) for clip in clips]
        except Exception as error:
            return [error for _ in clips]

    def _encode_one(self, clip: pb.AudioRef) -> torch.Tensor | Exception:
        try:
            return self.cache.get(clip.uri, clip.sha256)
        except Exception as error:
            return error
