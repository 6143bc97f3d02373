"""Does this pod's student speak the same token ids as the run's?"""

from __future__ import annotations

from typing import Any

import redis.asyncio as aioredis

from xopd.errors import UserError
from xopd.families import ModelFamily
from xopd.streams import Keys
from xopd.v1 import weights_pb2 as pb
from xopd.wire import WireError, decode


async def check_run(client: aioredis.Redis, keys: Keys, family: ModelFamily) -> pb.RunInfo | None:
    """Read the run that is under way, if there is one, and compare its vocabulary with this pod's student's.

    Raises:
        UserError: if they differ.
    """
    data: Any = await client.get(keys.run)
    if data is None:
        return None
    try:
        run = decode(pb.RunInfo, data)
    except WireError as error:
        raise UserError(f"redis key {keys.run}: {error}; run the same version of X-OPD everywhere.") from None
    own = family.vocabulary
    if run.vocabulary_fingerprint and run.vocabulary_fingerprint != own.fingerprint:
        raise UserError(
            f"student.path {family.path}: its vocabulary ({own.size} tokens, {len(own.special_tokens)} special, "
            f"fingerprint {own.fingerprint[:12]}) is not that of run {run.run_name or run.run_id}, whose student is "
            f"{run.student} (fingerprint {run.vocabulary_fingerprint[:12]}); give both the same student."
        )
    return run
