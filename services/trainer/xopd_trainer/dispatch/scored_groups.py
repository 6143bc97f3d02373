"""From an answer, or a supplied response, to a scored group: the teacher reads it after the TEXT prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xopd.data import Item
from xopd.prompts.conditionings import Conditionings
from xopd.scoring import TeacherClient, UnscorableError
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import TokenScores
from xopd_trainer.batch import ScoredGroup, ScoredTrajectory
from xopd_trainer.methods import Response


class GroupScorer:
    """Has responses scored."""

    def __init__(self, conditionings: Conditionings, teacher: TeacherClient, vocabulary_size: int) -> None:
        """Ask `teacher`; tokens that it names must lie below `vocabulary_size`, the rows of the policy's head."""
        self.conditionings = conditionings
        self.teacher = teacher
        self.vocabulary_size = vocabulary_size

    async def sampled(
        self, item: Item, group: pb.PromptGroup, answer: pb.TrajectoryGroup, version: int, top_k: int
    ) -> ScoredGroup:
        """The policy's own responses to `group`, to be trained on by policy `version`, with the teacher's scores.

        Raises:
            UnusablePromptError: if prompt and response are longer than the student's context.
            UnscorableError: if the teacher refuses these responses or answers wrongly, after all attempts.
            ScoringError: if the teacher cannot be reached, after all attempts.
        """
        responses = [np.asarray(t.token_ids, dtype=np.int32) for t in answer.trajectories]
        scores = await self._scores(item, responses, group.group_id, top_k)
        return self._group(
            item,
            group.modality,
            group.group_id,
            [
                ScoredTrajectory(
                    token_ids=tokens,
                    behaviour_logprobs=np.asarray(t.logprobs, dtype=np.float32),
                    teacher=score,
                    truncated=t.finish_reason == pb.FINISH_REASON_LENGTH,
                    policy_lag=version - int(np.asarray(t.policy_versions, dtype=np.int64).min()),
                )
                for t, tokens, score in zip(answer.trajectories, responses, scores, strict=True)
            ],
        )

    async def supplied(
        self, item: Item, modality: pb.Modality, group_id: str, response: Response, top_k: int | None
    ) -> ScoredGroup:
        """A response that the policy did not sample; scored unless `top_k` is None. Raises as `sampled`."""
        scores: Sequence[TokenScores | None] = [None]
        if top_k is not None:
            scores = await self._scores(item, [response], group_id, top_k)
        # A response of the teacher's may have been cut at its limit; one of the item's own ends by itself.
        cut = int(response[-1]) not in self.conditionings.family.stop_token_ids
        return self._group(item, modality, group_id, [ScoredTrajectory(response, None, scores[0], cut, 0)])

    async def _scores(self, item: Item, responses: Sequence[Response], group_id: str, top_k: int) -> list[TokenScores]:
        prompt = self.conditionings.teacher(item)
        scores = await self.teacher.score(prompt, responses, request_id=group_id, top_k=top_k)
        highest = max((int(score.top_token_ids.max()) for score in scores if score.top_token_ids.size), default=0)
        if highest >= self.vocabulary_size:
            raise UnscorableError(
                f"{group_id}: the teacher names token id {highest}, the student's head has {self.vocabulary_size} rows"
            )
        return scores

    def _group(
        self, item: Item, modality: pb.Modality, group_id: str, trajectories: Sequence[ScoredTrajectory]
    ) -> ScoredGroup:
        longest = max(len(trajectory.token_ids) for trajectory in trajectories)
        return ScoredGroup(
            group_id=group_id,
            modality=modality,
            prompt_token_ids=self.conditionings.student(item, modality, longest),
            text_prompt_token_ids=self.conditionings.student(item, pb.MODALITY_TEXT, longest),
            audio=(item.audio.uri, item.audio.sha256) if modality == pb.MODALITY_SPEECH else None,
            trajectories=tuple(trajectories),
        )
