"""The section `objective`: one class of settings for each training method, told apart by `objective.method`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from xopd.config.section import Fraction, PositiveFloat, PositiveInt, Range, Section
from xopd.config.suggest import suggestion
from xopd.wire.limits import MAX_RESPONSES


class MethodSettings(Section):
    """The training method: X-OPD, or one of the paper's baselines. L = (1 - lambda) L_text + lambda L_speech.

    These settings are common to all methods. A setting of another method is rejected, unless it has its default.
    """

    lambda_: Fraction = Field(
        0.5, alias="lambda", description="Weight of the speech-conditioned loss: 0 is text-only, 1 is speech-only."
    )
    samples: Annotated[int, Field(ge=1, le=MAX_RESPONSES)] = Field(
        4,
        description="N: responses sampled for each item and modality. `sft`, `offline_kd` and the off-policy items of"
        " `gkd` train on one response an item; their probes sample N.",
    )
    aggregation: Literal["token_mean", "sequence_mean"] = Field(
        "sequence_mean",
        description="`sequence_mean`: mean over tokens, then over responses (eq. 3, 4). `token_mean`: over all tokens.",
    )

    @property
    def trained_target(self) -> str | None:
        """Which of an item's own responses is trained on, by name; None where none is."""
        return None


class XopdSettings(MethodSettings):
    """On-policy distillation: a policy gradient on the student's own responses (`methods/xopd.py`)."""

    method: Literal["xopd"] = Field("xopd", description="on-policy distillation, the teacher scores the sampled tokens")
    advantage_clamp: PositiveFloat | None = Field(
        None, description="Clamp advantages to [-c, c] (nats). Empty: no clamp."
    )
    ratio_truncation: Range | None = Field(
        None, description="Truncate importance ratios to [low, high]. Empty: no truncation."
    )
    ratio_mask: Range | None = Field(
        None, description="Tokens whose importance ratio lies outside [low, high] count as 0. Empty: none do."
    )
    kl_estimator: Literal["sampled", "top_k", "full"] = Field(
        "sampled",
        description="`sampled` is the paper's (eq. 3, 4). The others put the expectation over the next token in its"
        " place: over the teacher's `top_k` tokens and one bucket for the rest, or over all tokens.",
    )
    top_k: PositiveInt = Field(64, description="Tokens of the teacher's distribution that `kl_estimator: top_k` uses.")

    @model_validator(mode="after")
    def _limits_fit_together(self) -> XopdSettings:
        for name, bounds in (("ratio_truncation", self.ratio_truncation), ("ratio_mask", self.ratio_mask)):
            if bounds is not None and not 0.0 <= bounds[0] < bounds[1]:
                raise ValueError(f"{name} must be [low, high] with 0 <= low < high, not {list(bounds)}")
        if self.ratio_truncation is not None and self.ratio_mask is not None:
            raise ValueError("ratio_truncation and ratio_mask exclude each other; give one of them")
        if self.kl_estimator != "sampled" and (self.ratio_truncation or self.ratio_mask):
            raise ValueError(f"kl_estimator {self.kl_estimator} has no importance ratio: leave ratio_* empty")
        return self


class GkdSettings(MethodSettings):
    """GKD: a divergence to the teacher's distribution at each token of a response (`methods/gkd.py`)."""

    method: Literal["gkd"] = Field("gkd", description="a divergence to the teacher's distributions")
    top_k: PositiveInt = Field(64, description="Tokens of the teacher's distribution that the divergence is over.")
    beta: Fraction = Field(0.0, description="Generalised Jensen-Shannon divergence; 0 is forward KL, 1 is reverse KL.")
    on_policy_share: Fraction = Field(
        1.0, description="Share of items answered by the student; the others bring their own response."
    )
    target: Annotated[str, Field(min_length=1)] = Field(
        "response",
        description="Where not on-policy: which response of an item; `response`, or one of its `targets` by name.",
    )

    @property
    def trained_target(self) -> str | None:  # noqa: D102 - the base says it
        return self.target if self.on_policy_share < 1.0 else None


class SftSettings(MethodSettings):
    """SFT: the likelihood of the items' own responses (`methods/sft.py`)."""

    method: Literal["sft"] = Field("sft", description="likelihood of the items' own responses")
    target: Annotated[str, Field(min_length=1)] = Field(
        "response", description="Which response of an item; `response`, or one of its `targets` by name."
    )

    @property
    def trained_target(self) -> str | None:  # noqa: D102 - the base says it
        return self.target


class OfflineKdSettings(MethodSettings):
    """Offline KD: the likelihood of the text teacher's own responses (`methods/offline_kd.py`)."""

    method: Literal["offline_kd"] = Field("offline_kd", description="likelihood of the teacher's own responses")
    teacher_temperature: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Temperature of the teacher's own responses; 0 is greedy."
    )


METHODS: Mapping[str, type[MethodSettings]] = {
    "xopd": XopdSettings,
    "gkd": GkdSettings,
    "sft": SftSettings,
    "offline_kd": OfflineKdSettings,
}
"""The settings of each method; the first method is the default."""


def options_of_method(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is `given` for the section, with its method named and without other methods' options at their defaults.

    A configuration that lists all options, or a comparison's entry that sets back an option that its method does not
    have, means the same with and without them.

    Raises:
        pydantic.ValidationError: if there is no such method, or it has not an option that is given another value.
    """
    method = given.get("method", next(iter(METHODS)))
    if not isinstance(method, str) or method not in METHODS:
        nearest = suggestion(str(method), METHODS) if isinstance(method, str) else ""
        raise _mistake("method", f"must be {', '.join(list(METHODS)[:-1])} or {list(METHODS)[-1]}{nearest}", method)
    own = {"method": method}
    for name, value in given.items():
        owners = [each for each, settings in METHODS.items() if name in settings.model_fields]
        if not owners or method in owners:
            own[name] = value
            continue
        owner = METHODS[owners[0]]
        if getattr(owner.model_validate({name: value}), name) != owner.model_fields[name].default:
            raise _mistake(name, f"is not used by method {method}, only by {' and '.join(owners)}; leave it out", value)
    return own


def _mistake(name: str, message: str, value: Any) -> ValidationError:
    details = InitErrorDetails(type=PydanticCustomError("value_error", message), loc=(name,), input=value)
    return ValidationError.from_exception_data("objective", [details])


def _method_of(given: Any) -> str:
    """Which class `given` belongs to; what is no section is handed to the first, which says so."""
    method = given.get("method") if isinstance(given, Mapping) else getattr(given, "method", None)
    return str(method or next(iter(METHODS)))


ObjectiveSettings = Annotated[
    Annotated[XopdSettings, Tag("xopd")]
    | Annotated[GkdSettings, Tag("gkd")]
    | Annotated[SftSettings, Tag("sft")]
    | Annotated[OfflineKdSettings, Tag("offline_kd")],
    # A function, since `method` is read by the rules of YAML first, as every setting is.
    Discriminator(_method_of),
    BeforeValidator(lambda given: options_of_method(given) if isinstance(given, Mapping) else given),
]
"""The section as a whole: the settings of one method."""
