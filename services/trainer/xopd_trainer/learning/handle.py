"""All that a run knows of its learner: take a step, measure, publish, save, load, export.

The methods take and give plain data: groups, paths, a weight sender. So whoever holds a handle cannot tell whether it
speaks for a model in this process or for one that is spread over many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xopd.data.audio import AudioError
from xopd.errors import UserError
from xopd.families.tensors import load_hub_state
from xopd.ledger.begun import NEW_RUN
from xopd.service.compute_thread import ComputeThread
from xopd.v1 import weights_pb2
from xopd.weights.base import WeightSender
from xopd_trainer.batch import ScoredGroup
from xopd_trainer.learning.checkpoint import Checkpoint, save_checkpoint
from xopd_trainer.learning.export import export_policy
from xopd_trainer.learning.learner import Learner, StepResult
from xopd_trainer.learning.optimiser import load_optimiser_tensors, optimiser_tensors
from xopd_trainer.learning.signals import SignalCollector


class LearnerHandle:
    """A learner in this process, in a thread of its own; its calls are answered one after another."""

    def __init__(self, learner: Learner) -> None:
        """Hand over `learner`: nobody else may touch it from here on."""
        self._learner = learner
        self._compute = ComputeThread()
        self.method = learner.method
        self.vocabulary_size = learner.vocabulary_size
        """Ids that the policy's output head has a row for."""

    async def unusable_clips(self, groups: Sequence[ScoredGroup]) -> dict[str, AudioError]:
        """The speech groups whose clip cannot be read here, by group id: they can be neither learnt nor measured."""
        return await self._compute.run(self._learner.unusable_clips, groups)

    async def step(self, step: int, groups: Sequence[ScoredGroup]) -> StepResult:
        """Take optimiser step `step` (counted from 1) on the scored groups of one batch."""
        return await self._compute.run(self._learner.step, step, groups)

    async def measure(self, groups: Sequence[ScoredGroup]) -> dict[str, SignalCollector]:
        """The signals of scored groups under the present weights, by modality name; nothing is learnt."""
        return await self._compute.run(self._learner.measure, groups)

    async def publish(self, version: int, sender: WeightSender) -> weights_pb2.WeightManifest:
        """Send the trained tensors as they are now, as policy version `version`.

        Raises:
            OSError: as `WeightSender.send` does.
        """
        return await self._compute.run(lambda: sender.send(version, self._learner.named_tensors()))

    async def save(self, folder: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
        """Write the checkpoint of step `step` below `folder`, with the counters `state`; keep the newest `keep`.

        Raises:
            FrozenPartChangedError: if tower or adapter are not what was loaded; nothing is written then.
            OSError: if it cannot be written, such as on a full disk; nothing of it is left behind.
        """
        return await self._compute.run(self._save, folder, step, state, keep)

    async def load(self, checkpoint: Checkpoint) -> None:
        """Go on from `checkpoint`: weights and optimiser.

        Raises:
            UserError: if it was trained with another tower or adapter, or in other number formats; nothing is changed
                then.
        """
        await self._compute.run(self._load, checkpoint)

    async def export(self, folder: Path) -> Path:
        """Write the policy to `folder` in the hub's layout.

        Raises:
            FrozenPartChangedError: if tower or adapter are not what was loaded; nothing is written then.
        """
        return await self._compute.run(self._export, folder)

    def _save(self, folder: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
        learner = self._learner
        learner.assert_frozen()
        masters = learner.masters
        optimiser = optimiser_tensors(learner.optimiser, learner.family, masters.weights, masters.separate)
        about = {**state, "frozen": learner.frozen_digest, "master_dtype": masters.dtype_name}
        return save_checkpoint(folder, step, learner.named_tensors(), optimiser, about, keep)

    def _load(self, checkpoint: Checkpoint) -> None:
        learner = self._learner
        written = checkpoint.dtype
        # Before there were masters apart, the optimiser stepped the model itself.
        for setting, before, now in (
            ("student.dtype", written, learner.config.student.dtype),
            ("learner.master_dtype", checkpoint.state.get("master_dtype", written), learner.masters.dtype_name),
        ):
            if before != now:
                raise UserError(
                    f"{setting} is {now}, and {checkpoint.path} was trained with {before}; set {setting} to {before},"
                    f" or {NEW_RUN}."
                )
        if checkpoint.state.get("frozen", learner.frozen_digest) != learner.frozen_digest:
            raise UserError(
                f"student.path {learner.family.path}: its audio tower or adapter is not the one that"
                f" {checkpoint.path} was trained with; give the student that the run began with, or begin the run anew."
            )
        load_hub_state(learner.family, learner.policy, checkpoint.model())
        load_optimiser_tensors(learner.optimiser, learner.family, learner.masters.weights, checkpoint.optimiser())

    def _export(self, folder: Path) -> Path:
        self._learner.assert_frozen()
        return export_policy(self._learner.family, self._learner.policy, folder)
