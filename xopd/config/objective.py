"""The section `objective`: the training method and its options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xopd.config.section import Fraction, PositiveFloat, PositiveInt, Range, Section
from xopd.wire.limits import MAX_RESPONSES

Method = Literal["xopd", "gkd", "sft", "offline_kd"]

OBJECTIVE_OPTIONS: dict[str, tuple[Method, ...]] = {
    "advantage_clamp": ("xopd",),
    "ratio_truncation": ("xopd",),
    "ratio_mask": ("xopd",),
    "kl_estimator": ("xopd",),
    "top_k": ("xopd", "gkd"),
    "beta": ("gkd",),
    "on_policy_share": ("gkd",),
    "target": ("sft", "gkd"),
    "teacher_temperature": ("offline_kd",),
}
"""Options of the objective that only some methods use; another value than the default is refused with the others."""


class ObjectiveSettings(Section):
    """The training method: X-OPD, or one of the paper's baselines. L = (1 - lambda) L_text + lambda L_speech."""

    method: Method = Field(
        "xopd",
        description="`xopd`: on-policy distillation, the teacher scores the sampled tokens. `gkd`: a divergence to the"
        " teacher's distributions. `sft`: likelihood of the items' own responses. `offline_kd`: likelihood of the"
        " teacher's own responses.",
    )
    lambda_: Fraction = Field(
        0.5, alias="lambda", description="Weight of the speech-conditioned loss: 0 is text-only, 1 is speech-only."
    )
    samples: Annotated[int, Field(ge=1, le=MAX_RESPONSES)] = Field(
        4, description="N: responses sampled for each item and modality; `sft` and `offline_kd` have one."
    )
    aggregation: Literal["token_mean", "sequence_mean"] = Field(
        "sequence_mean",
        description="`sequence_mean`: mean over tokens, then over responses (eq. 3, 4). `token_mean`: over all tokens.",
    )
    advantage_clamp: PositiveFloat | None = Field(
        None, description="`xopd`: clamp advantages to [-c, c] (nats). Empty: no clamp."
    )
    ratio_truncation: Range | None = Field(
        None, description="`xopd`: truncate importance ratios to [low, high]. Empty: no truncation."
    )
    ratio_mask: Range | None = Field(
        None, description="`xopd`: tokens whose importance ratio lies outside [low, high] count as 0. Empty: none do."
    )
    kl_estimator: Literal["sampled", "top_k", "full"] = Field(
        "sampled",
        description="`xopd`: `sampled` is the paper's (eq. 3, 4). The others put the expectation over the next token"
        " in its place: over the teacher's `top_k` tokens and one bucket for the rest, or over all tokens.",
    )
    top_k: PositiveInt = Field(
        64, description="Tokens of the teacher's distribution that `gkd`, and `xopd` with `top_k`, are given."
    )
    beta: Fraction = Field(
        0.0, description="`gkd`: generalised Jensen-Shannon divergence; 0 is forward KL, 1 is reverse KL."
    )
    on_policy_share: Fraction = Field(
        1.0, description="`gkd`: share of items answered by the student; the others bring their own response."
    )
    target: Annotated[str, Field(min_length=1)] = Field(
        "response",
        description="`sft`, and `gkd` where not on-policy: which response of an item; `response`, or one of its"
        " `targets` by name.",
    )
    teacher_temperature: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="`offline_kd`: temperature of the teacher's own responses; 0 is greedy."
    )

    @model_validator(mode="after")
    def _ordered_ranges(self) -> ObjectiveSettings:
        for name, bounds in (("ratio_truncation", self.ratio_truncation), ("ratio_mask", self.ratio_mask)):
            if bounds is not None and not 0.0 <= bounds[0] < bounds[1]:
                raise ValueError(f"{name} must be [low, high] with 0 <= low < high, not {list(bounds)}")
        if self.ratio_truncation is not None and self.ratio_mask is not None:
            raise ValueError("ratio_truncation and ratio_mask exclude each other; give one of them")
        return self

    @model_validator(mode="after")
    def _every_option_is_used(self) -> ObjectiveSettings:
        for name, methods in OBJECTIVE_OPTIONS.items():
            default = type(self).model_fields[name].default
            if self.method not in methods and getattr(self, name) != default:
                raise ValueError(f"{name} is not used by method {self.method}, only by {' and '.join(methods)}")
        if self.kl_estimator != "sampled" and (self.ratio_truncation or self.ratio_mask):
            raise ValueError(f"kl_estimator {self.kl_estimator} has no importance ratio: leave ratio_* empty")
        return self
