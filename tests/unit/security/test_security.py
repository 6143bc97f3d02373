"""When a service refuses insecure settings, and what it says of a token or a certificate that is no good."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.certificates import Authority
from xopd.config import Config
from xopd.errors import UserError
from xopd.security import (
    Credentials,
    read_credentials,
    refuse_insecure_address,
    refuse_insecure_calls,
    refuse_insecure_redis,
)
from xopd.security.credentials import is_loopback
from xopd.security.report import describe_security
from xopd.security.token import bearer, is_bearer_of

TOKEN = "0123456789abcdef"


def config_of(**sections: object) -> Config:
    needed = {"data": {"manifest": "m"}, "student": {"path": "s"}, "teacher": {"path": "t"}}
    merged = {name: {**needed.get(name, {}), **sections.get(name, {})} for name in {*needed, *sections}}  # type: ignore[dict-item]
    return Config.model_validate(merged)


def files(**names: str) -> dict[str, str]:
    return {"tls_cert": "c", "tls_key": "k", "tls_ca": "a"} | names


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_nothing(host):
    assert is_loopback(host)
    refuse_insecure_address(config_of(), "trainer.host", host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "192.0.2.1", "trainer.example", "", "localhost.example"])
@pytest.mark.parametrize("given", list(itertools.product([False, True], repeat=3)))
def test_any_other_address_needs_token_and_tls_or_a_word(host, given):
    token, tls, insecure = given
    security = {"insecure": insecure} | ({"token": TOKEN} if token else {}) | (files() if tls else {})
    config = config_of(security=security)
    if insecure or (token and tls):
        refuse_insecure_address(config, "trainer.host", host)
        return
    with pytest.raises(UserError) as caught:
        refuse_insecure_address(config, "trainer.host", host)
    sentence = str(caught.value)
    assert f"trainer.host {host}: is not loopback" in sentence
    assert ("security.token" in sentence, "security.tls_cert" in sentence) == (not token, not tls)
    assert "--insecure" in sentence and "docs/SECURITY.md" in sentence


def test_calls_to_other_machines_need_the_same():
    refuse_insecure_calls(config_of(teacher={"endpoints": ["127.0.0.1:1", "[::1]:2", "localhost:3"]}))
    far = {"endpoints": ["127.0.0.1:1", "teacher:50051"]}
    with pytest.raises(
        UserError, match=r"teacher\.endpoints teacher:50051: is not loopback.*token and security\.tls_ca"
    ):
        refuse_insecure_calls(config_of(teacher=far))
    with pytest.raises(UserError, match=r"and security\.tls_ca is not set"):
        refuse_insecure_calls(config_of(teacher=far, security={"token": TOKEN}))
    refuse_insecure_calls(config_of(teacher=far, security={"token": TOKEN, "tls_ca": "ca"}))
    refuse_insecure_calls(config_of(teacher=far, security={"insecure": True}))


@pytest.mark.parametrize(
    ("redis", "missing"),
    [
        ({}, None),
        ({"url": "redis://127.0.0.1:1/0"}, None),
        ({"url": "unix:///run/redis.sock"}, None),
        ({"url": "redis://redis:6379", "password": "p"}, "it is no rediss:// URL"),
        ({"url": "rediss://redis:6379"}, "redis.password is not set"),
        ({"url": "rediss://redis:6379", "password": "p"}, None),
        ({"url": "rediss://redis:6379", "password_file": "p"}, None),
        ({"url": "rediss://redis:6379", "tls_cert": "c", "tls_key": "k"}, None),
    ],
)
def test_redis_elsewhere_needs_tls_and_a_secret(redis, missing):
    if missing is None:
        refuse_insecure_redis(config_of(redis=redis))
        return
    with pytest.raises(UserError, match=missing):
        refuse_insecure_redis(config_of(redis=redis))
    refuse_insecure_redis(config_of(redis=redis, security={"insecure": True}))


@pytest.mark.parametrize("token", ["short", "with\nline breaks in it", "ünicode ünicode ünicode"])
def test_a_token_that_is_none(token):
    with pytest.raises(UserError, match=r"security\.token: must be at least 16 printable ASCII") as caught:
        read_credentials(config_of(security={"token": token}).security)
    assert token not in str(caught.value)


def test_credentials_do_not_show_the_token():
    credentials = read_credentials(config_of(security={"token": TOKEN}).security)
    assert credentials.token == TOKEN
    assert TOKEN not in repr(credentials)


def test_only_the_token_itself_will_do():
    assert is_bearer_of(TOKEN, bearer(TOKEN))
    assert is_bearer_of(TOKEN, f"bearer {TOKEN}".encode())
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}0",
        f"Bearer {TOKEN[:-1]}",
        b"\xff",
    ):
        assert not is_bearer_of(TOKEN, wrong)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.mark.parametrize("mutual", [False, True])
def test_a_good_certificate(authority, mutual):
    credentials = read_credentials(config_of(security=authority.issue("good").security(mutual_tls=mutual)).security)
    assert credentials.scheme == "https"
    assert credentials.mutual == mutual
    assert Credentials().scheme == "http"


def test_certificates_that_are_no_good(authority, tmp_path):
    good, expired = authority.issue("good"), authority.issue("expired", expired=True)
    foreign = Authority(tmp_path / "other").issue("foreign")
    (tmp_path / "nonsense").write_text("nothing to see")
    nonsense = str(tmp_path / "nonsense")
    cases = [
        (expired.security(), r"tls_cert .*expired\.pem: would not be accepted .*\(certificate has expired\); renew"),
        (good.security(tls_cert="/none.pem"), r"security\.tls_cert /none\.pem: cannot be read \(No such file"),
        (good.security(tls_key="/none.key"), r"security\.tls_key /none\.key: cannot be read"),
        (good.security(tls_ca="/none.pem"), r"security\.tls_ca /none\.pem: cannot be read"),
        (
            good.security(tls_key=expired.key),
            r"tls_key .*expired\.key: is not the key of security\.tls_cert .*good\.pem",
        ),
        (good.security(tls_ca=foreign.ca), r"would not be accepted by security\.tls_ca .*\(.*issuer certificate\)"),
        (good.security(tls_cert=nonsense), r"nonsense and security\.tls_key .* cannot be loaded .*must be PEM"),
        (good.security(tls_ca=nonsense), r"security\.tls_ca .*nonsense: holds no certificate"),
    ]
    for security, words in cases:
        with pytest.raises(UserError, match=words):
            read_credentials(config_of(security=security).security)


def test_check_describes_the_security(authority):
    assert describe_security(config_of()) == "no token; no TLS; own Redis without a password; loopback only"
    security = authority.issue("good").security(token=TOKEN, mutual_tls=True)
    redis = {"url": "rediss://redis:6379", "password": "p"}
    text = describe_security(config_of(security=security, redis=redis, trainer={"host": "0.0.0.0"}))
    assert text.startswith("a token is asked for; mutual TLS, certificate valid until 3000-01-01; ")
    assert text.endswith("; Redis over TLS, with a password; binds 0.0.0.0")
    open_ = config_of(security={"insecure": True}, trainer={"host": "0.0.0.0"})
    assert describe_security(open_).endswith("binds 0.0.0.0, INSECURE as told")


def test_up_needs_a_certificate_for_its_own_address(authority):
    elsewhere = config_of(security=authority.issue("elsewhere", "teacher.example").security())
    describe_security(elsewhere)
    with pytest.raises(UserError, match=r"would not be accepted for 127\.0\.0\.1 .*IP address mismatch"):
        describe_security(elsewhere, up=True)
