"""Secrets among the settings: where they are taken from, and the places in which they must not appear."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.unit.test_config import MINIMAL
from xopd.config import Config, dump_config, load_config
from xopd.config.redis import split_password
from xopd.config.secrets import SECRETS, read_secret, secret_variables
from xopd.errors import UserError

SECRET = "correct-horse-battery-staple"


@pytest.fixture
def write(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("XOPD_"):
            monkeypatch.delenv(name)

    def _write(extra: str = "") -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(MINIMAL + extra)
        return path

    return _write


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    sentence = str(caught.value)
    assert SECRET not in sentence
    assert "\n" not in sentence
    return sentence


def secrets_of(config: Config) -> list[str | None]:
    values = [getattr(getattr(config, section), name) for section, name in SECRETS]
    return [None if value is None else value.get_secret_value() for value in values]


def test_a_secret_comes_from_the_file_or_the_environment(write, monkeypatch):
    assert secrets_of(load_config(write(f"security: {{token: {SECRET}}}\nredis: {{password: '123'}}\n"))) == [
        SECRET,
        "123",
    ]
    monkeypatch.setenv("XOPD_SECURITY__TOKEN", "12345678901234567890")
    monkeypatch.setenv("XOPD_REDIS__PASSWORD", '{"a": 1}')
    assert secrets_of(load_config(write())) == ["12345678901234567890", '{"a": 1}']


@pytest.mark.parametrize(
    ("url", "bare", "password"),
    [
        (f"redis://:{SECRET}@host:6379/0", "redis://host:6379/0", SECRET),
        (f"rediss://user:{SECRET}@host", "rediss://user@host", SECRET),
        ("redis://:p%40ss@[::1]:1/0", "redis://[::1]:1/0", "p@ss"),
        ("redis://:@host/0", "redis://host/0", ""),
        (f"unix://:{SECRET}@/run/redis.sock?db=1", "unix:///run/redis.sock?db=1", SECRET),
        ("redis://user@host", "redis://user@host", None),
        ("redis://host:1/0", "redis://host:1/0", None),
        ("unix:///run/redis.sock", "unix:///run/redis.sock", None),
    ],
)
def test_a_password_is_taken_out_of_the_url(url, bare, password):
    assert split_password(url) == (bare, password)


def test_the_urls_password_is_a_secret_like_the_others(write, monkeypatch):
    monkeypatch.setenv("XOPD_REDIS__URL", f"redis://:{SECRET}@host:6379/0")
    config = load_config(write())
    assert config.redis.url == "redis://host:6379/0"
    assert config.redis.password is not None
    assert config.redis.password.get_secret_value() == SECRET
    assert "another one beside it" in refused(write("redis: {password: other}\n"))
    monkeypatch.setenv("XOPD_REDIS__URL", f"redis://host?password={SECRET}")
    assert "in its query" in refused(write())


def test_a_configuration_shows_no_secret(write, tmp_path):
    config = load_config(write(f"security: {{token: {SECRET}}}\nredis: {{url: 'redis://:{SECRET}@host'}}\n"))
    for shown in (repr(config), str(config), dump_config(config), config.model_dump_json()):
        assert SECRET not in shown
        assert "horse" not in shown


def test_a_run_hands_secrets_on_by_the_environment_alone(write, tmp_path, monkeypatch):
    config = load_config(write(f"security: {{token: {SECRET}}}\nredis: {{url: 'redis://:{SECRET}@host'}}\n"))
    again = tmp_path / "resolved.yaml"
    again.write_text(dump_config(config))
    assert secrets_of(load_config(again)) == [None, None]
    for name, value in secret_variables(config).items():
        monkeypatch.setenv(name, value)
    assert load_config(again) == config


@pytest.mark.parametrize(
    "option",
    [
        f"security.token={SECRET}",
        f"SECURITY.TOKEN={SECRET}",
        f"security={{token: {SECRET}}}",
        f"security.token=[{SECRET}",
        f"redis.password={SECRET}",
        f"redis.url=redis://:{SECRET}@host",
        f"redis.url=redis://host?password={SECRET}",
        f"redis={{url: 'redis://:{SECRET}@host'}}",
    ],
)
def test_a_command_line_takes_no_secret(write, option):
    sentence = refused(write(), option)
    assert "a command line can be read by every user" in sentence
    assert "environment variable XOPD_" in sentence


@pytest.mark.parametrize(
    "extra",
    [
        f"security: {{token: [{SECRET}]}}\n",
        f"security: {SECRET}\n",
        f"redis: {{password: {{a: {SECRET}}}}}\n",
        f"redis: redis://:{SECRET}@host\n",
        f"redis: {{url: ['redis://:{SECRET}@host']}}\n",
        f"security: {{token: {SECRET}, token_file: x}}\n",
        f"redis: {{password: {SECRET}, password_file: x}}\n",
    ],
)
def test_a_mistake_does_not_repeat_the_secret(write, extra):
    refused(write(extra))


def test_broken_json_in_a_variable_is_one_sentence(write, monkeypatch):
    monkeypatch.setenv("XOPD_SECURITY", f'{{"token": "{SECRET}"')
    assert "must be JSON" in refused(write())


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ({"tls_cert": "c"}, ["tls_cert and tls_key belong together"]),
        ({"tls_cert": "c", "tls_key": "k"}, ["tls_cert needs tls_ca"]),
        ({"mutual_tls": True, "tls_ca": "c"}, ["mutual_tls needs"]),
    ],
)
def test_half_a_setting_is_refused(write, section, parts):
    sentence = refused(write(yaml.safe_dump({"security": section})))
    for part in parts:
        assert part in sentence


def test_tls_files_need_a_tls_url(write):
    assert "rediss://" in refused(write("redis: {url: 'redis://host', tls_ca: ca.pem}\n"))


def test_empty_paths_are_none(write, monkeypatch):
    for name in ("TLS_CERT", "TLS_KEY", "TLS_CA", "TOKEN_FILE"):
        monkeypatch.setenv(f"XOPD_SECURITY__{name}", "")
    security = load_config(write()).security
    assert security.tls_cert is security.tls_key is security.tls_ca is security.token_file is None


def test_files_lie_beside_the_configuration(write, tmp_path):
    (tmp_path / "token").write_text(f"{SECRET}\n")
    security = load_config(write("security: {token_file: token}\n")).security
    assert security.token_file == str(tmp_path / "token")
    assert read_secret("security.token", security.token, security.token_file) == SECRET


def test_a_secret_file_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match=r"security\.token_file .*none: cannot be read"):
        read_secret("security.token", None, str(tmp_path / "none"))
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UserError, match=r"redis\.password_file .*empty: is empty"):
        read_secret("redis.password", None, str(tmp_path / "empty"))
