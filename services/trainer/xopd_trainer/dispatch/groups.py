"""Write prompt groups: one item in one modality, with its prompt, audio, seeds and the policy version it wants."""

from __future__ import annotations

import hashlib

from xopd.config import Config
from xopd.data import Item
from xopd.prompts.conditionings import Conditionings
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import MODALITY_NAMES, PROTOCOL


class GroupWriter:
    """Makes the prompt groups of one run."""

    def __init__(self, config: Config, conditionings: Conditionings, run_id: str) -> None:
        """Write groups for `run_id`."""
        self.config = config
        self.conditionings = conditionings
        self.run_id = run_id

    @staticmethod
    def training_id(step: int, item: Item, modality: pb.Modality) -> str:
        """Id of the group of one item and modality in a training step."""
        return f"train-{step:06d}-{item.id}-{MODALITY_NAMES[modality]}"

    def training(self, step: int, item: Item, modality: pb.Modality, version: int) -> pb.PromptGroup:
        """N sampled responses for training step `step`, from policy `version` exactly."""
        group_id = self.training_id(step, item, modality)
        return self._sampled(group_id, step, item, modality, version, pb.PURPOSE_TRAIN)

    def probe(self, version: int, item: Item, modality: pb.Modality) -> pb.PromptGroup:
        """N sampled responses from policy `version` that are measured and not trained on."""
        group_id = f"probe-{version:06d}-{item.id}-{MODALITY_NAMES[modality]}"
        return self._sampled(group_id, version, item, modality, version, pb.PURPOSE_EVAL)

    def evaluation(self, label: str, step: int, item: Item, modality: pb.Modality, version: int) -> pb.PromptGroup:
        """One greedy response, to be graded."""
        group_id = f"eval-{label}-{step:06d}-{item.id}-{MODALITY_NAMES[modality]}"
        sampling = pb.Sampling(temperature=0.0, max_new_tokens=self.config.evals.max_new_tokens)
        return self._group(group_id, step, item, modality, version, [0], sampling, pb.PURPOSE_EVAL)

    @property
    def max_new_tokens(self) -> int:
        """Longest training response (tokens)."""
        return self.config.sampling.max_new_tokens

    def assert_fits(self, item: Item, modality: pb.Modality) -> None:
        """Refuse an item whose prompt leaves no room for a training response, in either form.

        Responses to speech are read after the text prompt as well, for the modality gap.

        Raises:
            UnusablePromptError: if one does not fit.
        """
        for each in (pb.MODALITY_TEXT, modality):
            self.conditionings.student(item, each, self.max_new_tokens)

    def _sampled(
        self, group_id: str, step: int, item: Item, modality: pb.Modality, version: int, purpose: pb.Purpose
    ) -> pb.PromptGroup:
        self.assert_fits(item, modality)
        # What the teacher cannot be asked need not be sampled.
        self.conditionings.teacher(item)
        seeds = [self._seed(group_id, index) for index in range(self.config.objective.samples)]
        sampling = pb.Sampling(temperature=self.config.sampling.temperature, max_new_tokens=self.max_new_tokens)
        return self._group(group_id, step, item, modality, version, seeds, sampling, purpose)

    def _group(
        self,
        group_id: str,
        step: int,
        item: Item,
        modality: pb.Modality,
        version: int,
        seeds: list[int],
        sampling: pb.Sampling,
        purpose: pb.Purpose,
    ) -> pb.PromptGroup:
        sampling.stop_token_ids.extend(self.conditionings.family.stop_token_ids)
        group = pb.PromptGroup(
            protocol=PROTOCOL,
            run_id=self.run_id,
            group_id=group_id,
            item_id=item.id,
            modality=modality,
            purpose=purpose,
            step=step,
            prompt_token_ids=self.conditionings.student(item, modality, sampling.max_new_tokens),
            seeds=seeds,
            sampling=sampling,
            min_policy_version=version,
            max_policy_version=version,
        )
        if modality == pb.MODALITY_SPEECH:
            group.audio.uri, group.audio.sha256 = item.audio.uri, item.audio.sha256
        return group

    def _seed(self, group_id: str, index: int) -> int:
        digest = hashlib.sha256(f"{self.config.run.seed}/{group_id}/{index}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1
