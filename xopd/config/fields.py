"""All settings by their path of names, as YAML writes it."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from xopd.config.objective import METHODS
from xopd.config.schema import Config
from xopd.config.section import takes_text
from xopd.config.yaml12 import FieldPath


def known_fields(model: type[BaseModel] = Config, prefix: FieldPath = ()) -> dict[FieldPath, Any]:
    """Every setting: path of names (as written in YAML) to its pydantic FieldInfo, sections left out.

    Of a setting that several methods have, the first one's stands for all.
    """
    fields: dict[FieldPath, Any] = {}
    for name, info in model.model_fields.items():
        here = (*prefix, info.alias or name)
        sections = sections_of(info)
        if not sections:
            fields[here] = info
        for section in sections:
            fields = {**known_fields(section, here), **fields}
    return fields


def sections_of(info: Any) -> list[type[BaseModel]]:
    """The section models of a FieldInfo: none where it is a plain setting, several where a method chooses."""
    kinds = (info.annotation, *get_args(info.annotation))
    # A method's settings are annotated with its name.
    plain = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    return [kind for kind in plain if isinstance(kind, type) and issubclass(kind, BaseModel)]


def setting_at(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Pydantic's place of a mistake as a path of settings: `objective` is followed by the method's name there."""
    return (loc[0], *loc[2:]) if loc[:1] == ("objective",) and loc[1:2] and loc[1] in METHODS else loc


def is_text(path: FieldPath, model: type[BaseModel] = Config) -> bool:
    """Whether text belongs at a path below `model`; an element of a list has its number in the path."""
    info = next((info for name, info in model.model_fields.items() if path[:1] == (info.alias or name,)), None)
    if info is None:
        return False
    below = path[2:] if path[1:] and path[1].isdecimal() else path[1:]
    sections = sections_of(info)
    if sections:
        return any(is_text(below, section) for section in sections)
    return not below and takes_text(info.annotation)


def is_list(info: Any) -> bool:
    """Whether a setting is a list of values."""
    kinds = (info.annotation, *get_args(info.annotation))
    return any(get_origin(kind) in (list, tuple) for kind in kinds)
