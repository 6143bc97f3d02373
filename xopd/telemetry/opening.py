"""A process's tracer, from its configuration: opened once, handed to whoever makes spans, flushed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

from opentelemetry.trace import Tracer

from xopd.config.schema import Config
from xopd.errors import UserError
from xopd.telemetry.context import NO_TRACER


@contextlib.asynccontextmanager
async def tracing(config: Config, service: str, instance: str = "") -> AsyncIterator[Tracer]:
    """The tracer of this process, `service` being trainer, rollout or teacher and `instance` the pod's name.

    Where `tracing.endpoint` is empty, one that does nothing. Open it after other processes have been forked: the
    exporter has threads.

    Raises:
        UserError: if an OTEL_ variable holds what the exporter cannot use.
    """
    if not config.tracing.endpoint:
        yield NO_TRACER
        return
    from xopd.telemetry.export import Exporting

    instance = instance or f"{socket.gethostname()}-{os.getpid()}"
    try:
        exporting = await asyncio.to_thread(Exporting, config.tracing, f"xopd-{service}", instance, config.run.name)
    except Exception as error:
        raise UserError(
            f"tracing.endpoint {config.tracing.endpoint}: the exporter does not start ({error}); correct the OTEL_"
            " variables, or leave the endpoint empty."
        ) from None
    try:
        yield exporting.tracer
    finally:
        await asyncio.to_thread(exporting.close)
