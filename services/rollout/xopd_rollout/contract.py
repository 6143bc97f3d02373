"""What goes into the engine and what can go wrong there, for code that need not import vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from xopd.v1 import trajectory_pb2 as pb
from xopd.v1 import weights_pb2

NO_VERSION = -1
"""Policy version of tokens sampled before any version of a run was loaded: the checkpoint as it is on disk."""


class BadPromptError(ValueError):
    """A prompt that is refused and would be refused again; the text says why, `reason` the kind of fault."""

    def __init__(self, reason: Literal["length", "tokens", "engine"], text: str) -> None:
        """Hold the reason."""
        super().__init__(text)
        self.reason = reason


class WeightsRejectedError(RuntimeError):
    """A weight version that is not what it must be: nothing of it was applied, the weights held stay."""


class EngineDiedError(RuntimeError):
    """The engine's process has ended, or hangs: this pod is of no more use."""


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt, and vLLM's `multi_modal_data` for the clip that its placeholder stands for."""

    token_ids: Sequence[int]
    audio: dict[str, Any] | None = None
    audio_id: str = ""
    """Content hash of the clip: what vLLM's caches know it by."""


class PolicyEngine(Protocol):
    """The student, ready to sample; see `xopd_rollout.engine.Engine` for the one there is."""

    async def generate(self, prompt: Prompt, seeds: Sequence[int], sampling: pb.Sampling) -> list[pb.Trajectory]:
        """Sample one response for each seed. Raises BadPromptError, EngineDiedError."""
        ...

    async def apply(self, manifest: weights_pb2.WeightManifest) -> None:
        """Load a version in place. Raises WeightsRejectedError, EngineDiedError, or what the load raised."""
        ...

    async def check_health(self) -> None:
        """Return if the engine works. Raises EngineDiedError."""
        ...

    def close(self) -> None:
        """End the engine's process."""
        ...
