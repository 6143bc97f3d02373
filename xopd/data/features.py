"""Encoded clips: each is encoded once by the frozen tower, then read from a folder that pods and trainer share.

A file's name holds the fingerprint of the frozen tensors and the clip's content hash, so it can never be stale.
"""

from __future__ import annotations

import os
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from xopd.data.audio import AudioRules, fetch_audio


class AudioEncoder(Protocol):
    """The frozen half of the model: audio tower and modal adapter."""

    fingerprint: str
    """SHA-256 over the frozen tensors: encoded clips are valid for exactly these."""

    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        """Encode clips.

        Args:
            waveforms: mono samples at the family's sample rate, each of shape [samples].

        Returns:
            One tensor of shape [audio tokens, hidden size] a clip: what the language model is given in the place of
            the audio placeholder.
        """
        ...


class FeatureCache:
    """Clips in, features out; what is not in memory or on disk is fetched, checked and encoded. For one thread."""

    def __init__(
        self,
        folder: str | Path,
        encoder: AudioEncoder,
        sample_rate: int,
        rules: AudioRules,
        memory_gb: float = 0.25,
        one_by_one: bool = False,
    ) -> None:
        """Keep files under `folder`, and what was used last also in memory, up to `memory_gb` (GiB).

        Clips must satisfy `rules`.

        With `one_by_one` a clip's features do not depend, in their last bits, on the clips encoded with it.
        """
        # Apart from clips that were encoded together, whose last bits differ.
        self.folder = Path(folder) / (encoder.fingerprint[:16] + ("-alone" if one_by_one else ""))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.encoder = encoder
        self.sample_rate = sample_rate
        self.rules = rules
        self.memory_bytes = int(memory_gb * 2**30)
        self.one_by_one = one_by_one
        self.encoded = 0
        """Clips this process has encoded itself."""
        self._memory: OrderedDict[str, Tensor] = OrderedDict()
        self.bytes_in_memory = 0
        """What the clips in memory take."""

    def get(self, uri: str, sha256: str) -> Tensor:
        """Features of one clip, shape [audio tokens, hidden size]. Raises AudioError."""
        return self.get_many([(uri, sha256)])[0]

    def get_many(self, clips: Sequence[tuple[str, str]]) -> list[Tensor]:
        """Features of many clips, given as (uri, sha256); those missing are encoded in one batch.

        Raises:
            AudioError: if a clip cannot be used.
        """
        found = {sha256: self._recall(sha256) for _, sha256 in clips}
        missing = {sha256: uri for uri, sha256 in clips if found[sha256] is None}
        if missing:
            waves = [fetch_audio(uri, sha256, self.sample_rate, self.rules) for sha256, uri in missing.items()]
            batches = [[wave] for wave in waves] if self.one_by_one else [waves]
            found_now = [encoded for batch in batches for encoded in self.encoder.encode(batch)]
            for sha256, encoded in zip(missing, found_now, strict=True):
                self._write(sha256, encoded)
                self._remember(sha256, encoded)
                found[sha256] = encoded
            self.encoded += len(missing)
        return [features for _, sha256 in clips if (features := found[sha256]) is not None]

    def _recall(self, sha256: str) -> Tensor | None:
        if sha256 in self._memory:
            self._memory.move_to_end(sha256)
            return self._memory[sha256]
        path = self._path(sha256)
        if not path.exists():
            return None
        try:
            # Not memory-mapped: a file that is removed on a shared disk would take its pages away.
            features: Tensor = load(path.read_bytes())["features"]
            if not len(features):
                return None
        except (SafetensorError, OSError, KeyError):
            # A torn file, such as after a full disk: it is encoded again and replaced.
            return None
        self._remember(sha256, features)
        return features

    def _remember(self, sha256: str, features: Tensor) -> None:
        self._memory[sha256] = features
        self.bytes_in_memory += features.nbytes
        while self.bytes_in_memory > self.memory_bytes:
            _, oldest = self._memory.popitem(last=False)
            self.bytes_in_memory -= oldest.nbytes

    def _write(self, sha256: str, features: Tensor) -> None:
        path = self._path(sha256)
        partial = path.with_suffix(f".{uuid.uuid4().hex}.part")
        save_file({"features": features.contiguous()}, partial)
        os.replace(partial, path)

    def _path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.safetensors"
