"""docs/CONFIG.md, generated from the schema: every setting with its type, default, variable and meaning."""

from __future__ import annotations

import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from xopd.config.load import ENV_PREFIX, section_of
from xopd.config.schema import Config

HEAD = """\
# Settings

One YAML file configures all services. The same file serves `xopd up` on one machine and the pods of a cluster.

A setting can be given in three places; the later ones win:

1. the YAML file: `run: {steps: 300}`;
2. an environment variable, `XOPD_` and the path joined by two underscores: `XOPD_RUN__STEPS=300` (lists as JSON:
   `XOPD_TEACHER__ENDPOINTS='["teacher:50051"]'`);
3. the command line: `--set run.steps=300`, which may be repeated; values in YAML syntax.

Unknown keys, unknown `XOPD_` variables, duplicates, wrong types and impossible combinations are refused at start-up,
in one sentence that names the place. Relative paths of `data.manifest`, `student.path`, `teacher.path`, `evals.bounds`
and of files with secrets, certificates and keys start at the file's own folder. Secrets are refused in `--set`, which
every user of a machine can read, and left out of `RUN/config.yaml`, where a run keeps its resolved settings.
`xopd check CONFIG` looks at everything that can be checked without starting a run.

This page is generated: `xopd config reference > docs/CONFIG.md`.
"""


def reference_page() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD]
    for name, info in Config.model_fields.items():
        section = section_of(info)
        if section is not None:
            parts.append(_section(name, section))
    return "\n".join(parts)


def _section(name: str, section: type[BaseModel]) -> str:
    lines = [f"## `{name}`", "", (section.__doc__ or "").strip(), ""]
    lines += ["| setting | type | default | variable | meaning |", "| --- | --- | --- | --- | --- |"]
    for field_name, info in section.model_fields.items():
        key = info.alias or field_name
        variable = f"{ENV_PREFIX}{name}__{key}".upper()
        cells = (f"`{key}`", _type(info), _default(info), f"`{variable}`", info.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    value = info.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "empty"
    shown = list(value) if isinstance(value, tuple) else value
    return f"`{shown if isinstance(shown, float) else json.dumps(shown, ensure_ascii=False).strip(chr(34))}`"


def _type(info: FieldInfo) -> str:
    return _kind(info.annotation) + _bounds(info.metadata)


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0]) + _bounds(arguments[1:])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return _kind(next(a for a in arguments if a is not type(None))) + ", may be empty"
    if origin is list:
        return f"list of {_kind(arguments[0])}s"
    if origin is tuple:
        return f"[{', '.join(_kind(a) for a in arguments)}]"
    plain = {str: "text", int: "integer", float: "number", bool: "true or false", SecretStr: "secret text"}
    return plain.get(annotation, str(annotation))


def _bounds(metadata: Any) -> str:
    found: dict[str, Any] = {}
    for item in metadata:
        for constraint in getattr(item, "metadata", [item]):
            if isinstance(constraint, annotated_types.Ge):
                found["≥"] = constraint.ge
            elif isinstance(constraint, annotated_types.Gt):
                found[">"] = constraint.gt
            elif isinstance(constraint, annotated_types.Le):
                found["≤"] = constraint.le
    return "".join(f", {sign} {value:g}" for sign, value in found.items())
