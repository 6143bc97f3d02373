"""What groups of settings have in common: their base, kinds of numbers, and how numbers are taken."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from xopd.config.yaml12 import number_in

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Range = tuple[float, float]
OptionalPath = Annotated[str | None, BeforeValidator(lambda value: None if value == "" else value)]
"""A file's path; empty text, such as an unset variable of compose gives, means none."""

LARGEST_WHOLE_FLOAT = 2.0**53
"""Up to here a float is one integer and no other."""
LARGEST_INTEGER = 2**63 - 1
"""What fits into the 64 bits of messages, files and tensors."""


class Section(BaseModel):
    """A group of settings; unknown keys are refused, and so are numbers that are not finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_by_the_rules_of_yaml(cls, value: Any, info: ValidationInfo) -> Any:
        return _number_as_written(value, cls.model_fields[info.field_name or ""].annotation)


def takes_text(annotation: Any) -> bool:
    """Whether a setting of this type, or each element of its list, is text."""
    if get_origin(annotation) is Literal:
        return all(isinstance(choice, str) for choice in get_args(annotation))
    inner = _inner(annotation)
    return annotation in (str, SecretStr) or (bool(inner) and all(takes_text(each) for each in inner))


def first_message(error: ValidationError) -> str:
    """What pydantic says of the first mistake; what our own validators say comes without its prefix."""
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ")


def _number_as_written(value: Any, annotation: Any) -> Any:
    """`value` with every number in it as YAML has it: pydantic alone takes true for 1, and 1_000 for 1000."""
    if get_origin(annotation) is Literal:
        annotation = type(get_args(annotation)[0])
    if annotation in (int, float):
        return _number(value, annotation)
    inner = _inner(annotation)
    if value is None or not inner or any(each != inner[0] for each in inner):
        return value
    if get_origin(annotation) in (list, tuple):
        return [_number_as_written(each, inner[0]) for each in value] if isinstance(value, (list, tuple)) else value
    return _number_as_written(value, inner[0])


def _number(value: Any, kind: type) -> Any:
    wanted = PydanticCustomError("number", "must be an integer" if kind is int else "must be a number")
    if isinstance(value, bool):
        raise wanted
    if isinstance(value, str):
        try:
            value = number_in(value)
        except ValueError:
            value = None
        if value is None:
            raise wanted
    if kind is int and isinstance(value, float):
        if not value.is_integer() or abs(value) > LARGEST_WHOLE_FLOAT:
            raise wanted
        return int(value)
    if kind is int and isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise PydanticCustomError("number", "must be an integer of 64 bits")
    return value


def _inner(annotation: Any) -> list[Any]:
    """What a list, a tuple, a union or an annotated type is made of, None left out; nothing for a plain type."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    return [each for each in arguments if each is not type(None)]
