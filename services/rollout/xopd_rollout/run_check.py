"""Does this pod's student speak the same token ids as the run's?"""

from __future__ import annotations

from typing import Any

import redis.asyncio as aioredis
import structlog

from xopd.errors import UserError
from xopd.families import ModelFamily
from xopd.streams import Keys
from xopd.v1 import weights_pb2 as pb
from xopd.wire import NewerProtocolError, WireError, decode_run_info
from xopd_rollout.metrics import RolloutMetrics

log = structlog.get_logger(__name__)


async def check_run(
    client: aioredis.Redis, keys: Keys, family: ModelFamily, metrics: RolloutMetrics
) -> pb.RunInfo | None:
    """Read the run that is under way, if there is one, and compare its vocabulary with this pod's student's.

    A key that holds something else is counted and taken for none: it must not end every pod there is.

    Raises:
        UserError: if they differ, or the run speaks a newer protocol.
    """
    data: Any = await client.get(keys.run)
    if data is None:
        return None
    try:
        run = decode_run_info(data)
    except NewerProtocolError as error:
        raise UserError(f"redis key {keys.run}: {error}; run the same version of X-OPD everywhere.") from None
    except WireError as error:
        metrics.refused.labels("message").inc()
        log.warning("the run's key cannot be used", key=keys.run, reason=str(error))
        return None
    own = family.vocabulary
    if run.vocabulary_fingerprint and run.vocabulary_fingerprint != own.fingerprint:
        raise UserError(
            f"student.path {family.path}: its vocabulary ({own.size} tokens, {len(own.special_tokens)} special, "
            f"fingerprint {own.fingerprint[:12]}) is not that of run {run.run_name or run.run_id}, whose student is "
            f"{run.student} (fingerprint {run.vocabulary_fingerprint[:12]}); give both the same student."
        )
    return run
