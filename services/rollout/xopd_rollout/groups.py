"""One prompt group, from claim to answer: fetch its clip, wait for its policy version, sample, and say how it went."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Literal

import structlog

from xopd.data.audio import AudioError
from xopd.errors import UserError
from xopd.telemetry import Tracer, child_span
from xopd.telemetry.clock import ActivityClock
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire import PROTOCOL
from xopd.wire.limits import MAX_REASON_CHARACTERS
from xopd_rollout.contract import BadPromptError, EngineDiedError, PolicyEngine, Prompt
from xopd_rollout.metrics import RolloutMetrics
from xopd_rollout.prompt_check import PromptCheck
from xopd_rollout.updater import PolicyUnavailableError, PolicyUpdater

if TYPE_CHECKING:
    from xopd_rollout.audio import AudioInput, PreparedClip

log = structlog.get_logger(__name__)


class GroupSampler:
    """Answers prompt groups."""

    def __init__(
        self,
        pod_id: str,
        engine: PolicyEngine,
        updater: PolicyUpdater,
        audio: AudioInput,
        clock: ActivityClock,
        timeout_s: float,
        tracer: Tracer,
        prompts: PromptCheck,
        metrics: RolloutMetrics,
    ) -> None:
        """Answer as `pod_id`; a group that keeps the engine longer than `timeout_s` (seconds) is given up."""
        self.tracer = tracer
        self.pod_id = pod_id
        self.engine = engine
        self.updater = updater
        self.audio = audio
        self.clock = clock
        self.timeout_s = timeout_s
        self.prompts = prompts
        self.metrics = metrics
        self.overdue = False
        """Whether the newest group did not end in time: the engine may hang."""

    async def answer(self, group: pb.PromptGroup) -> pb.TrajectoryGroup:
        """Sample the group's trajectories; what goes wrong with this group alone becomes its Failure.

        Called for several groups at a time; they reach the engine in the order of the calls.

        Raises:
            EngineDiedError: if the engine's process has ended.
            UserError: if this pod's student cannot serve the group's run.
        """
        answer = _answer_to(group, self.pod_id)
        try:
            answer.trajectories.extend(await self._sample(group))
        except (AudioError, BadPromptError) as error:
            self.metrics.record_refusal(error)
            _fail(answer, pb.FAILURE_CODE_BAD_ITEM, str(error))
        except PolicyUnavailableError as error:
            _fail(answer, pb.FAILURE_CODE_POLICY_UNAVAILABLE, str(error))
        except (EngineDiedError, UserError):
            raise
        except TimeoutError:
            self.overdue = True
            _fail(answer, pb.FAILURE_CODE_ENGINE, f"the engine did not finish within {self.timeout_s:g} s")
        except Exception as error:
            log.exception("group failed", group=group.group_id)
            await self.engine.check_health()
            _fail(answer, pb.FAILURE_CODE_ENGINE, f"{type(error).__name__}: {error}")
        answer.finished_at = time.time()
        return answer

    def refuse(
        self, group: pb.PromptGroup, reason: str, fault: Literal["message", "deadly"] = "message"
    ) -> pb.TrajectoryGroup:
        """The answer to a group that cannot be sampled from, whoever samples."""
        self.metrics.refused.labels(fault).inc()
        answer = _answer_to(group, self.pod_id)
        _fail(answer, pb.FAILURE_CODE_BAD_ITEM, reason)
        answer.finished_at = time.time()
        return answer

    async def _sample(self, group: pb.PromptGroup) -> list[pb.Trajectory]:
        self.prompts.check(group.prompt_token_ids, group.HasField("audio"), group.sampling)
        # The clip is fetched while the group waits for its turn.
        clip = asyncio.ensure_future(self._clip(group.audio)) if group.HasField("audio") else None
        wanted = (group.run_id, group.min_policy_version, group.max_policy_version)
        try:
            async with contextlib.AsyncExitStack() as turn:
                with child_span(self.tracer, "wait for policy", {"xopd.policy_version": wanted[1]}):
                    await turn.enter_async_context(self.updater.at_version(*wanted))
                async with asyncio.timeout(self.timeout_s):
                    prompt = Prompt(group.prompt_token_ids)
                    if clip is not None:
                        prepared = await clip
                        self.prompts.check_clip(group.prompt_token_ids, prepared.tokens, group.sampling)
                        prompt = Prompt(group.prompt_token_ids, prepared.data, group.audio.sha256)
                    with self.clock.counting("busy"), child_span(self.tracer, "generate"):
                        trajectories = await self.engine.generate(prompt, group.seeds, group.sampling)
            self.overdue = False
            return trajectories
        finally:
            if clip is not None:
                clip.cancel()

    async def _clip(self, audio: pb.AudioRef) -> PreparedClip:
        with child_span(self.tracer, "fetch audio"):
            return await self.audio.get(audio)


def _answer_to(group: pb.PromptGroup, pod_id: str) -> pb.TrajectoryGroup:
    return pb.TrajectoryGroup(
        protocol=PROTOCOL,
        run_id=group.run_id,
        group_id=group.group_id,
        item_id=group.item_id,
        modality=group.modality,
        purpose=group.purpose,
        step=group.step,
        attempt=group.attempt,
        pod_id=pod_id,
        started_at=time.time(),
        traceparent=group.traceparent,
    )


def _fail(answer: pb.TrajectoryGroup, code: pb.FailureCode, reason: str) -> None:
    log.warning("group failed", group=answer.group_id, code=pb.FailureCode.Name(code), reason=reason)
    answer.failure.code = code
    answer.failure.reason = reason[:MAX_REASON_CHARACTERS]
