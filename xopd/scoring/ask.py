"""Ask one teacher once who it is, for checks before a run."""

from __future__ import annotations

import asyncio

from xopd.errors import UserError
from xopd.scoring.authentication import REJECTED
from xopd.scoring.pods import parse_endpoint
from xopd.scoring.pool import PodPool
from xopd.security import Credentials
from xopd.v1 import teacher_pb2 as pb


async def ask_info(endpoint: str, credentials: Credentials, timeout_s: float) -> pb.InfoResponse:
    """The answer of the first pod behind `endpoint` (host:port) that gives one.

    Raises:
        UserError: if none does within `timeout_s` (seconds), with the reason of one of them.
    """
    async with PodPool([parse_endpoint(endpoint)], timeout_s, credentials) as pool:
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - began < timeout_s:
            for pod in pool.pods:
                if pod.info is not None:
                    return pod.info
                if pod.refusal == REJECTED:
                    raise UserError(f"teacher.endpoints {endpoint}: {pod.refusal}.")
            await asyncio.sleep(0.05)
        raise UserError(
            f"teacher.endpoints {endpoint}: does not answer ({pool.problems()}); start a teacher there or correct the"
            " address."
        )
