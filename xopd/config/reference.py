"""docs/CONFIG.md, generated from the schema: every setting with its type, default, variable and meaning."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from xopd.config.environment import ENV_PREFIX
from xopd.config.fields import sections_of
from xopd.config.objective import METHODS, MethodSettings
from xopd.config.schema import Config

HEAD = """\
# Settings

One YAML file configures all services. The same file serves `xopd up` on one machine and the pods of a cluster.

A setting can be given in three places; the later ones win:

1. the YAML file: `run: {steps: 300}`;
2. an environment variable, `XOPD_` and the path joined by two underscores: `XOPD_RUN__STEPS=300` (lists as JSON:
   `XOPD_TEACHER__ENDPOINTS='["teacher:50051"]'`);
3. the command line: `--set run.steps=300`, which may be repeated; values in YAML syntax. Of two `--set` of the same
   setting the later one wins.

YAML is read by the core rules of version 1.2: `0100` is 100, `0o14` is 12, `0x1F` is 31, `1e-5` is a number; `1:30`,
`1_000`, dates, `yes` and `no` are text. A number is taken by the same rules from a variable; an integer may also be
written as `1e3`. A setting that is text takes what is written: `run: {name: 0100}` names the run `0100`. A setting that
is true or false takes `true` or `false`, and also `yes`, `no`, `on`, `off`, 1 and 0.

Unknown keys, unknown `XOPD_` variables, duplicates, wrong types and impossible combinations are refused at start-up,
in one sentence that names the place. Relative paths of `data.manifest`, `student.path`, `teacher.path`, `evals.bounds`
and of files with secrets, certificates and keys start at the file's own folder. A checkpoint may also be a hub id, such
as `org/name` or `org/name@revision`, which is fetched once ([DEPLOY.md](DEPLOY.md#checkpoints-by-name)).

Secrets are refused in `--set`, which every user of a machine can read, and left out of `RUN/config.yaml`, where a run
keeps its resolved settings.
`xopd check CONFIG` looks at everything that can be checked without starting a run.

This page is generated: `xopd config reference > docs/CONFIG.md`.
"""


def reference_page() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD]
    for name, info in Config.model_fields.items():
        sections = sections_of(info)
        if len(sections) == 1:
            parts.append(_page_part(f"## `{name}`", sections[0], _rows(name, sections[0].model_fields)))
        elif sections:
            parts += _methods(name)
    return "\n".join(parts)


def _methods(name: str) -> list[str]:
    """The part of the section `objective`: what all methods have, then a table a method."""
    common = MethodSettings.model_fields
    methods = {method: settings.model_fields for method, settings in METHODS.items()}
    each = "; ".join(f"`{method}`: {fields['method'].description}" for method, fields in methods.items())
    kinds = " or ".join(f"`{method}`" for method in methods)
    rows = [_row(name, "method", kinds, f"`{next(iter(methods))}`", f"{each}."), *_rows(name, common)]
    parts = [_page_part(f"## `{name}`", MethodSettings, rows)]
    for method, settings in METHODS.items():
        own = {key: info for key, info in settings.model_fields.items() if key != "method" and key not in common}
        parts.append(_page_part(f"### `method: {method}`", settings, _rows(name, own)))
    return parts


def _page_part(heading: str, section: type[BaseModel], rows: list[str]) -> str:
    head = ["| setting | type | default | variable | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([heading, "", inspect.cleandoc(section.__doc__ or ""), "", *head, *rows]) + "\n"


def _rows(name: str, fields: Mapping[str, FieldInfo]) -> list[str]:
    return [
        _row(name, info.alias or key, _type(info), _default(info), info.description or "")
        for key, info in fields.items()
    ]


def _row(name: str, key: str, kind: str, default: str, meaning: str) -> str:
    cells = (f"`{key}`", kind, default, f"`{ENV_PREFIX}{name}__{key}`".upper(), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


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
    return "".join(f", {sign} {value if isinstance(value, int) else f'{value:g}'}" for sign, value in found.items())
