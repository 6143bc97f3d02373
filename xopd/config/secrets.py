"""Secrets among the settings: where they may stand, where they must not, and how they reach other processes.

A secret may come from the configuration's file, from an environment variable or from a file of its own. It is not
taken from a command line, which every user of a machine can read, and never written into a run's `config.yaml`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from xopd.config.schema import Config
from xopd.errors import UserError
from xopd.files import EncodingError, read_text

SECRETS = (("security", "token"), ("redis", "password"))
"""Settings whose values are shown nowhere."""
FILES = tuple(
    (section, name)
    for section, own in (("security", "token_file"), ("redis", "password_file"))
    for name in (own, "tls_cert", "tls_key", "tls_ca")
)
"""Settings that name a file with a secret, a certificate or a key."""


def redact(text: str) -> str:
    """`text` with the user part of every URL in it replaced."""
    return re.sub(r"//[^@/\s]*@", "//…@", text)


def read_secret(setting: str, value: SecretStr | None, file: str | None) -> str | None:
    """A secret's value, from the setting itself or from its file.

    Args:
        setting: the setting's name, for the sentence.
        value: what was given directly.
        file: a file that holds nothing else; white space around it does not count.

    Raises:
        UserError: if the file cannot be read or is empty.
    """
    if file is None:
        return None if value is None else value.get_secret_value()
    try:
        found = read_text(Path(file)).strip()
    except (OSError, EncodingError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{setting}_file {file}: cannot be read ({reason}); correct the path or its rights.") from None
    if not found:
        raise UserError(f"{setting}_file {file}: is empty; write the secret into it.")
    return found


def secret_variables(config: Config) -> dict[str, str]:
    """The environment variables that hand a configuration's own secrets to a process that reads its `config.yaml`."""
    found = {}
    for section, name in SECRETS:
        value: SecretStr | None = getattr(getattr(config, section), name)
        if value is not None:
            found[f"XOPD_{section}__{name}".upper()] = value.get_secret_value()
    return found


def refuse_secrets_in(setting: str, tree: dict[str, Any] | None = None) -> None:
    """Refuse a secret that was given by --set.

    Args:
        setting: the name in front of the equals sign, in any case.
        tree: all that --set gave so far, once it is parsed.

    Raises:
        UserError: without the value.
    """
    named = setting.strip().lower()
    for section, name in SECRETS:
        given = (tree or {}).get(section)
        if named == f"{section}.{name}" or (isinstance(given, dict) and given.get(name) is not None):
            raise _on_the_command_line(section, name)
    redis = (tree or {}).get("redis")
    url = redis.get("url") if isinstance(redis, dict) else None
    if isinstance(url, str) and (re.search(r"//[^@/]*:[^@/]*@", url) or "password=" in url):
        raise _on_the_command_line("redis", "password")


def _on_the_command_line(section: str, name: str) -> UserError:
    variable = f"XOPD_{section}__{name}".upper()
    return UserError(
        f"--set {section}.{name}: a command line can be read by every user of this machine; give the secret as the"
        f" environment variable {variable}, or its file as --set {section}.{name}_file=PATH."
    )
