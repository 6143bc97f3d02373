"""Read a configuration: YAML file, then XOPD_ environment variables, then --set, the later ones winning.

Every mistake is one sentence that names the file and line (or the variable, or the option), the field, and what
to write instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsError

from xopd.config.environment import ENV_PREFIX, given_by_variables
from xopd.config.fields import is_text, known_fields, setting_at
from xopd.config.schema import Config
from xopd.config.secrets import FILES, SECRETS, redact, refuse_secrets_in
from xopd.config.section import first_message
from xopd.config.suggest import suggestion
from xopd.config.yaml12 import MAX_DEPTH, FieldPath, YamlError, in_one_line, read_yaml, read_yaml_file, write_yaml
from xopd.errors import UserError

__all__ = ["ENV_PREFIX", "dump_config", "known_fields", "load_config"]

# Settings that name a file: relative ones are taken from the configuration's own folder where they exist there.
PATH_FIELDS = (("data", "manifest"), ("student", "path"), ("teacher", "path"), ("evals", "bounds"), *FILES)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read and check the configuration at `path`; the environment's `XOPD_A__B=c` sets a.b.

    Args:
        path: YAML file.
        overrides: `a.b=c` strings, values in YAML syntax; they win over everything else, the later over the earlier.

    Raises:
        UserError: for an unreadable file, an unknown key, a wrong type or an impossible combination.
    """
    path = Path(path)
    document = read_yaml_file(path, "configuration file", is_text)
    tree = document.value
    if not isinstance(tree, dict):
        raise UserError(f"{path}:1: must hold sections such as `data:` and `student:`; it holds none.")
    sets = _parse_overrides(overrides)
    given = {**given_by_variables(os.environ), **dict.fromkeys(_paths_in(sets), "--set")}

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
        raise UserError(_sentence(error, path, document.lines, given)) from None
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
    return write_yaml(config.model_dump(by_alias=True, mode="json", exclude=without))


def _parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        keys = tuple(name.strip().split("."))
        shown = in_one_line(redact(override))
        refuse_secrets_in(name)
        if not equals or not all(keys) or len(keys) > MAX_DEPTH:
            raise UserError(f"--set {shown}: must have the form a.b=value, such as run.steps=100.")
        try:
            document = read_yaml(text, lambda path, keys=keys: is_text((*keys, *path)))  # type: ignore[misc]
        except YamlError as error:
            raise UserError(f"--set {shown}: the value {error.problem}.") from None
        if document.rest.startswith("#"):
            raise UserError(f"--set {shown}: from the # on, the value would be a comment; quote the value.")
        branch = tree
        for key in keys[:-1]:
            branch = branch.setdefault(key, {})
            if not isinstance(branch, dict):
                raise UserError(f"--set {shown}: `{key}` was given a plain value by an earlier --set; drop one.")
        _put(branch, keys[-1], document.value)
        refuse_secrets_in(name, tree)
    return tree


def _put(branch: dict[str, Any], key: str, value: Any) -> None:
    """Set a value; what a section already has and `value` does not name stays."""
    if isinstance(branch.get(key), dict) and isinstance(value, dict):
        for inner, each in value.items():
            _put(branch[key], inner, each)
    else:
        branch[key] = value


def _paths_in(tree: dict[str, Any], here: FieldPath = ()) -> list[FieldPath]:
    paths = []
    for key, value in tree.items():
        paths.append((*here, key))
        if isinstance(value, dict):
            paths += _paths_in(value, (*here, key))
    return paths


def _sentence(error: ValidationError, path: Path, lines: dict[FieldPath, int], given: dict[FieldPath, str]) -> str:
    """The first mistake as one sentence; the others only counted."""
    mistakes = error.errors()
    first = mistakes[0]
    at = setting_at(first["loc"])
    full = tuple("lambda" if part == "lambda_" else str(part) for part in at)
    loc = tuple(name for name, part in zip(full, at, strict=True) if not isinstance(part, int))
    field = in_one_line(".".join(loc))
    if first["type"] == "extra_forbidden" and tuple(loc[-1].split(".")) in known_fields():
        what = f"`{field}` in one word is only for --set; write `{field.replace('.', ': {')}: …}}`"
    elif first["type"] == "extra_forbidden":
        siblings = {f[len(loc) - 1] for f in known_fields() if f[: len(loc) - 1] == loc[:-1] and len(f) >= len(loc)}
        what = f"`{field}` is not a setting{suggestion(loc[-1], siblings, '.'.join(loc[:-1]))}"
    elif first["type"] == "missing":
        what = f"`{field}` is missing; write it, or give --set {field}=…"
    elif first["type"] == "model_type":
        what = f"`{field}` is a section: write its settings below it, or leave it out"
    elif first["type"] == "string_type" and isinstance(first["input"], (int, float)):
        what = f"`{field}` is text: put quotes around it"
    else:
        hidden = first["type"] == "value_error" or loc[:2] in SECRETS or loc == ("security",)
        shown = "" if hidden else f", not {_shown(first['input'])}"
        message = first_message(error)
        what = f"`{field}`: {message}{shown}" if field else message
    more = f" ({len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    return f"{_where(loc, full, path, lines, given)}: {what}{more}."


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    return in_one_line(redact(repr(value)))


def _where(
    loc: FieldPath, full: FieldPath, path: Path, lines: dict[FieldPath, int], given: dict[FieldPath, str]
) -> str:
    """Where a mistake stands: `loc` is its setting, `full` the element of it that is mistaken."""
    if loc in given:
        return f"--set {in_one_line('.'.join(loc))}" if given[loc] == "--set" else f"environment variable {given[loc]}"
    for length in range(len(full), 0, -1):
        if full[:length] in lines:
            return f"{path}:{lines[full[:length]]}"
    return str(path)


def _resolve_paths(plain: dict[str, Any], base: Path) -> None:
    for section, name in PATH_FIELDS:
        value = plain[section][name]
        if value and "://" not in value and not Path(value).is_absolute():
            candidate = base / value
            if candidate.exists() or section in ("data", "evals"):
                plain[section][name] = str(candidate.resolve())
