"""HTTP endpoints of a pod: the common ones, and a way to try the policy by hand."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field, model_validator

from xopd.config.schema import Config
from xopd.data.audio import AudioError
from xopd.families import ModelFamily
from xopd.prompts import UnusablePromptError
from xopd.service.http import ReadyCheck, make_app
from xopd.v1 import trajectory_pb2 as pb
from xopd.wire.limits import MAX_RESPONSE_TOKENS
from xopd_rollout.contract import BadPromptError, Prompt
from xopd_rollout.environment import ENGINE, engine_version
from xopd_rollout.groups import GroupSampler
from xopd_rollout.metrics import FINISH_REASONS, RolloutMetrics


class Clip(BaseModel):
    """A clip by reference."""

    model_config = ConfigDict(extra="forbid")

    uri: str = Field(min_length=1, description="fsspec URI or path that the pod can read.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="Hash of the file's bytes.")


class GenerateRequest(BaseModel):
    """One prompt, in exactly one of three forms."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(None, description="Instruction as text.")
    token_ids: list[Annotated[int, Field(ge=0, lt=2**31)]] | None = Field(None, description="A rendered prompt.")
    audio: Clip | None = Field(None, description="Instruction as speech.")
    question: str = Field("", description="Text beside the clip.")
    n: Annotated[int, Field(ge=1, le=64)] = Field(1, description="Responses wanted.")
    seed: int = Field(0, ge=0, le=2**31, description="Seed of the first response; the others follow.")
    temperature: Annotated[float, Field(ge=0.0, le=10.0)] = Field(1.0, description="0 is greedy.")
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_RESPONSE_TOKENS)] = Field(
        64, description="Longest response (tokens)."
    )

    @model_validator(mode="after")
    def _one_form(self) -> GenerateRequest:
        if sum(form is not None for form in (self.text, self.token_ids, self.audio)) != 1:
            raise ValueError("give exactly one of text, token_ids and audio")
        if self.question and self.audio is None:
            raise ValueError("question goes beside audio only")
        return self


class Response(BaseModel):
    """One sampled response."""

    text: str
    token_ids: list[int]
    logprobs: list[float]
    policy_versions: list[int] = Field(description="Version that sampled each token; -1 is the checkpoint on disk.")
    finish_reason: str


class GenerateResponse(BaseModel):
    """What the policy answered."""

    prompt_token_ids: list[int]
    responses: list[Response]


class Served:
    """What the endpoints need once the engine is up; until then `sampler` is None."""

    def __init__(self) -> None:
        """Nothing is up yet."""
        self.sampler: GroupSampler | None = None
        self.family: ModelFamily | None = None


def make_rollout_app(
    config: Config, metrics: RolloutMetrics, served: Served, alive: ReadyCheck, ready: ReadyCheck
) -> FastAPI:
    """The pod's application."""
    app = make_app("rollout", ENGINE, engine_version(), metrics.registry, alive, ready)

    @app.post("/v1/generate", summary="Try the policy: sample responses to one prompt")
    async def generate(request: GenerateRequest) -> GenerateResponse:
        sampler, family = served.sampler, served.family
        if sampler is None or family is None:
            raise HTTPException(503, "the engine is not up yet")
        sampling = pb.Sampling(
            temperature=request.temperature,
            max_new_tokens=request.max_new_tokens,
            stop_token_ids=family.stop_token_ids,
        )
        try:
            prompt = await _prompt(request, sampler, family, sampling)
            seeds = range(request.seed, request.seed + request.n)
            async with sampler.updater.at_any_version():
                trajectories = await sampler.engine.generate(prompt, seeds, sampling)
        except (AudioError, BadPromptError, UnusablePromptError) as error:
            raise HTTPException(422, str(error)) from None
        return GenerateResponse(
            prompt_token_ids=list(prompt.token_ids),
            responses=[
                Response(
                    text=family.tokenizer.decode(trajectory.token_ids, skip_special_tokens=True),
                    token_ids=list(trajectory.token_ids),
                    logprobs=list(trajectory.logprobs),
                    policy_versions=list(trajectory.policy_versions),
                    finish_reason=FINISH_REASONS[trajectory.finish_reason],
                )
                for trajectory in trajectories
            ],
        )

    return app


async def _prompt(
    request: GenerateRequest, sampler: GroupSampler, family: ModelFamily, sampling: pb.Sampling
) -> Prompt:
    if request.audio is not None:
        clip = pb.AudioRef(uri=request.audio.uri, sha256=request.audio.sha256)
        token_ids = family.render_speech(request.question)
        sampler.prompts.check(token_ids, True, sampling)
        prepared = await sampler.audio.get(clip)
        sampler.prompts.check_clip(token_ids, prepared.tokens, sampling)
        return Prompt(token_ids, prepared.data, clip.sha256)
    token_ids = request.token_ids or [] if request.text is None else family.render_text(request.text)
    sampler.prompts.check(token_ids, False, sampling)
    return Prompt(token_ids)
