"""What groups of settings have in common: their base, and kinds of numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Range = tuple[float, float]


class Section(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, validate_default=True)


def first_message(error: ValidationError) -> str:
    """What pydantic says of the first mistake; what our own validators say comes without its prefix."""
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
