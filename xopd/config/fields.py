"""All settings by their path of names, as YAML writes it."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic import BaseModel

from xopd.config.schema import Config
from xopd.config.section import takes_text
from xopd.config.yaml12 import FieldPath


def known_fields(model: type[BaseModel] = Config, prefix: FieldPath = ()) -> dict[FieldPath, Any]:
    """Every setting: path of names (as written in YAML) to its pydantic FieldInfo, sections left out."""
    fields: dict[FieldPath, Any] = {}
    for name, info in model.model_fields.items():
        here = (*prefix, info.alias or name)
        section = section_of(info)
        if section is None:
            fields[here] = info
        else:
            fields.update(known_fields(section, here))
    return fields


def section_of(info: Any) -> type[BaseModel] | None:
    """The section model of a FieldInfo, or None where it is a plain setting."""
    for kind in (info.annotation, *get_args(info.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def is_text(path: FieldPath, model: type[BaseModel] = Config) -> bool:
    """Whether text belongs at a path below `model`; an element of a list has its number in the path."""
    info = next((info for name, info in model.model_fields.items() if path[:1] == (info.alias or name,)), None)
    if info is None:
        return False
    below = path[2:] if path[1:] and path[1].isdecimal() else path[1:]
    section = section_of(info)
    if section is not None:
        return is_text(below, section)
    return not below and takes_text(info.annotation)


def is_list(info: Any) -> bool:
    """Whether a setting is a list of values."""
    kinds = (info.annotation, *get_args(info.annotation))
    return any(get_origin(kind) in (list, tuple) for kind in kinds)
