"""The stream of dead letters: what nobody could use, and why. The newest are kept, each cut to a few kilobytes.

Fields of an entry: `reason`, one sentence; `source`, the stream it came from; `by`, who refused it; `bytes`, the length
of the message; `p`, the beginning of the message.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio as aioredis

from xopd.wire.limits import DEAD_LETTER_BYTES, DEAD_LETTERS_KEPT, MAX_REASON_CHARACTERS

FIELD = b"p"


class DeadLetters:
    """Where one service puts what it cannot use."""

    def __init__(self, client: aioredis.Redis, key: str, by: str) -> None:
        """Write to the stream `key` in the name of `by`."""
        self.client = client
        self.key = key
        self.by = by

    async def add(self, source: str, message: bytes, reason: str) -> None:
        """Add one letter. Raises RedisError or OSError."""
        await self.add_in(self.client, source, message, reason)

    def add_in(self, pipe: Any, source: str, message: bytes, reason: str) -> Any:
        """The same, as part of a transaction that also does something else."""
        fields = {
            FIELD: message[:DEAD_LETTER_BYTES],
            "reason": reason[:MAX_REASON_CHARACTERS],
            "source": source,
            "by": self.by,
            "bytes": len(message),
        }
        return pipe.xadd(self.key, fields, maxlen=DEAD_LETTERS_KEPT, approximate=False)
