"""The doors of a service: who may come in (a token), over what (TLS), and when a service refuses to open them."""

from xopd.security.credentials import Doors, open_doors, refuse_open_calls, refuse_open_doors, refuse_open_redis

__all__ = ["Doors", "open_doors", "refuse_open_calls", "refuse_open_doors", "refuse_open_redis"]
