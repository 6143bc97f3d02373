"""Read a configuration: YAML file, then XOPD_ environment variables, then --set, the later ones winning.

Every mistake is one sentence that names the file and line (or the variable, or the option), the field, and what
to write instead.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsError

from xopd.config.schema import Config
from xopd.config.secrets import FILES, SECRETS, redact, refuse_secrets_in
from xopd.config.section import first_message
from xopd.errors import UserError

ENV_PREFIX = "XOPD_"
# Variables that are not settings: how a starter and its services find each other.
PLUMBING = frozenset({"XOPD_ADDRESS_FILE"})
# Settings that name a file: relative ones are taken from the configuration's own folder where they exist there.
PATH_FIELDS = (("data", "manifest"), ("student", "path"), ("teacher", "path"), ("evals", "bounds"), *FILES)

FieldPath = tuple[str, ...]


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read and check the configuration at `path`; the environment's `XOPD_A__B=c` sets a.b.

    Args:
        path: YAML file.
        overrides: `a.b=c` strings, values in YAML syntax; they win over everything else.

    Raises:
        UserError: for an unreadable file, an unknown key, a wrong type or an impossible combination.
    """
    path = Path(path)
    tree, lines = _read_yaml(path)
    sets = _parse_overrides(overrides)
    _refuse_unknown_variables(os.environ)

    class Sourced(Config):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            from_yaml = InitSettingsSource(settings_cls, init_kwargs=tree)
            from_set = InitSettingsSource(settings_cls, init_kwargs=sets)
            return (from_set, env_settings, from_yaml)

    try:
        sourced = Sourced()
    except ValidationError as error:
        raise UserError(_sentence(error, path, lines, sets)) from None
    except SettingsError as error:
        raise UserError(f"environment variables: {error}; sections and lists must be JSON there.") from None
    plain: dict[str, Any] = sourced.model_dump(by_alias=True)
    _resolve_paths(plain, path.parent)
    return Config.model_validate(plain)


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that `load_config` reads back to the same values, secrets left out.

    Whoever starts a process with it hands over the secrets by the environment: `xopd.config.secrets.secret_variables`.
    """
    without: dict[str, set[str]] = {}
    for section, name in SECRETS:
        without.setdefault(section, set()).add(name)
    return yaml.safe_dump(config.model_dump(by_alias=True, mode="json", exclude=without), sort_keys=False)


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


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[FieldPath, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such configuration file; give the path of a YAML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the path of a YAML file.") from None
    lines: dict[FieldPath, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _collect_lines(node, (), lines, path)
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: is not valid YAML ({error.problem}); correct the line.") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}:1: must hold sections such as `data:` and `student:`; it holds none.")
    return tree, lines


def _collect_lines(node: Any, here: FieldPath, lines: dict[FieldPath, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            field = (*here, str(key.value))
            line = key.start_mark.line + 1
            if field in lines:
                raise UserError(
                    f"{path}:{line}: `{'.'.join(field)}` stands here and on line {lines[field]}; remove one of them."
                )
            lines[field] = line
            _collect_lines(value, field, lines, path)


def _parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        keys = name.strip().split(".")
        refuse_secrets_in(name)
        if not equals or not all(keys):
            raise UserError(f"--set {redact(override)}: must have the form a.b=value, such as run.steps=100.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {redact(override)}: the value is not valid YAML; quote it.") from None
        branch = tree
        for key in keys[:-1]:
            branch = branch.setdefault(key, {})
            if not isinstance(branch, dict):
                raise UserError(
                    f"--set {redact(override)}: `{key}` was given a plain value by an earlier --set; drop one."
                )
        branch[keys[-1]] = value
        refuse_secrets_in(name, tree)
    return tree


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {ENV_PREFIX + "__".join(field).upper() for field in known_fields()}
    known |= {ENV_PREFIX + name.upper() for name in Config.model_fields}
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name.upper() not in known and name not in PLUMBING:
            raise UserError(f"environment variable {name}: there is no such setting{_suggest(name, known)}.")


def _sentence(
    error: ValidationError,
    path: Path,
    lines: dict[FieldPath, int],
    sets: dict[str, Any],
) -> str:
    """The first mistake as one sentence; the others only counted."""
    mistakes = error.errors()
    first = mistakes[0]
    loc = tuple(str(part) for part in first["loc"] if not isinstance(part, int))
    loc = tuple("lambda" if part == "lambda_" else part for part in loc)
    field = ".".join(loc)
    if first["type"] == "extra_forbidden":
        siblings = {f[len(loc) - 1] for f in known_fields() if f[: len(loc) - 1] == loc[:-1] and len(f) >= len(loc)}
        what = f"`{field}` is not a setting{_suggest(loc[-1], siblings, '.'.join(loc[:-1]))}"
    elif first["type"] == "missing":
        what = f"`{field}` is missing; write it, or give --set {field}=…"
    else:
        hidden = first["type"] == "value_error" or loc[:2] in SECRETS or loc == ("security",)
        given = "" if hidden else f", not {redact(repr(first['input']))}"
        message = first_message(error)
        what = f"`{field}`: {message}{given}" if field else message
    more = f" ({len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    return f"{_where(loc, path, lines, sets)}: {what}{more}."


def _where(loc: FieldPath, path: Path, lines: dict[FieldPath, int], sets: dict[str, Any]) -> str:
    branch: Any = sets
    for key in loc:
        branch = branch.get(key) if isinstance(branch, dict) else None
    if loc and branch is not None:
        return f"--set {'.'.join(loc)}"
    variable = ENV_PREFIX + "__".join(loc).upper()
    if variable in os.environ:
        return f"environment variable {variable}"
    for length in range(len(loc), 0, -1):
        if loc[:length] in lines:
            return f"{path}:{lines[loc[:length]]}"
    return str(path)


def _suggest(word: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if not close:
        return f"; see docs/CONFIG.md{f' for those of `{prefix}`' if prefix else ''}"
    return f" (did you mean `{close[0]}`?)"


def _resolve_paths(plain: dict[str, Any], base: Path) -> None:
    for section, name in PATH_FIELDS:
        value = plain[section][name]
        if value and "://" not in value and not Path(value).is_absolute():
            candidate = base / value
            if candidate.exists() or section in ("data", "evals"):
                plain[section][name] = str(candidate.resolve())
