"""Settings in environment variables: which there are, and JSON that is held to the same rules as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xopd.config.fields import is_list, known_fields
from xopd.config.schema import Config
from xopd.config.suggest import suggestion
from xopd.config.yaml12 import FieldPath, in_one_line
from xopd.errors import UserError
from xopd.jsonl import NOT_JSON, RepeatedKeyError, loads_strict

ENV_PREFIX = "XOPD_"
# Variables that are not settings: how a starter and its services find each other.
PLUMBING = frozenset({"XOPD_ADDRESS_FILE"})


def given_by_variables(environ: Mapping[str, str]) -> dict[FieldPath, str]:
    """The settings and sections that variables give, each with the name of its variable.

    Raises:
        UserError: for a variable that is no setting, and for JSON that is none or has a key twice.
    """
    fields = known_fields()
    known = {
        ENV_PREFIX + "__".join(path).upper(): path for path in (*((name,) for name in Config.model_fields), *fields)
    }
    given: dict[FieldPath, str] = {}
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name in PLUMBING:
            continue
        path = known.get(name.upper())
        if path is None:
            raise UserError(f"environment variable {name}: there is no such setting{suggestion(name, known)}.")
        given[path] = name
        if path not in fields or is_list(fields[path]):
            given.update(dict.fromkeys(_paths_in(_json(name, environ[name]), path), name))
    return given


def _json(name: str, text: str) -> Any:
    try:
        return loads_strict(text)
    except RepeatedKeyError as error:
        raise UserError(f"environment variable {name}: {in_one_line(error)}.") from None
    except NOT_JSON as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else in_one_line(error)
        raise UserError(
            f"environment variable {name}: is not valid JSON ({reason}); sections and lists must be JSON there."
        ) from None


def _paths_in(value: Any, here: FieldPath) -> list[FieldPath]:
    if not isinstance(value, dict):
        return []
    return [path for key, inner in value.items() for path in ((*here, key), *_paths_in(inner, (*here, key)))]
