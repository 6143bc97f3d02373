"""A configuration's security in a line, for `xopd check`; everything that can be wrong with it raises."""

from __future__ import annotations

from xopd.config import Config
from xopd.security.credentials import (
    callable_host,
    is_loopback,
    read_credentials,
    redis_is_near,
    refuse_insecure_address,
    refuse_insecure_calls,
    refuse_insecure_redis,
)
from xopd.security.tls import check_certificate


def describe_security(config: Config, up: bool = False) -> str:
    """One clause each for token, TLS and Redis.

    Args:
        config: the whole tree.
        up: its services are about to be started on this machine, and must be able to call one another.

    Raises:
        UserError: if a service would refuse these settings or, with `up`, its certificate is not good for its address.
    """
    bound = {
        "teacher.host": config.teacher.host,
        "rollout.host": config.rollout.host,
        "trainer.host": config.trainer.host,
    }
    for setting, host in bound.items():
        refuse_insecure_address(config, setting, host)
    refuse_insecure_calls(config)
    refuse_insecure_redis(config)
    credentials = read_credentials(config.security)
    clauses = ["a token is asked for" if credentials.token is not None else "no token"]
    if credentials.certificate is None:
        clauses.append("no TLS")
    else:
        assert credentials.authorities is not None
        until = check_certificate(credentials.certificate, credentials.authorities, credentials.mutual)
        if up:
            called = {callable_host(host).strip("[]") for setting, host in bound.items() if setting != "teacher.host"}
            called |= set() if config.teacher.endpoints else {"127.0.0.1"}
            for host in sorted(called):
                check_certificate(credentials.certificate, credentials.authorities, credentials.mutual, host)
        clauses.append(f"{'mutual ' if credentials.mutual else ''}TLS, certificate valid until {until}")
    clauses.append(_redis(config))
    away = sorted({host for host in bound.values() if not is_loopback(host)})
    if not away:
        clauses.append("loopback only")
    else:
        clauses.append(f"binds {', '.join(away)}" + (", INSECURE as told" if config.security.insecure else ""))
    return "; ".join(clauses)


def _redis(config: Config) -> str:
    redis = config.redis
    secret = "with a password" if redis.password is not None or redis.password_file else "without a password"
    if redis.url is None:
        return f"own Redis {secret}"
    over = "over TLS" if redis.url.startswith("rediss://") else "here" if redis_is_near(redis) else "in clear"
    return f"Redis {over}, {secret}"
