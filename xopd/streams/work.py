"""A Redis stream read by a consumer group: claim, renew, take over, acknowledge.

Every entry is one protobuf message in the field `p`. Acknowledged entries are removed, so the stream's length is
the work not yet done. A server that comes back empty costs nothing but the entries: groups are made again.

Dead letters are what nobody could use, and why: the newest are kept, each cut to a few kilobytes. Fields of an entry:
`reason`, one sentence; `source`, the stream it came from; `by`, who rejected it; `bytes`, the length of the message;
`p`, the beginning of the message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis.asyncio as aioredis
from redis.exceptions import ResponseError

from xopd.wire.limits import DEAD_LETTER_BYTES, DEAD_LETTERS_KEPT, MAX_REASON_CHARACTERS

FIELD = b"p"
"""The field of a stream entry that holds the message."""


@dataclass(frozen=True)
class Claim:
    """One entry that this consumer holds. `data` is the message; `redelivered` says another held it before."""

    entry_id: bytes
    data: bytes
    redelivered: bool = False
    lost: int = 0
    """Consumers that had it before, did not give it back, and were not heard of again."""


class WorkStream:
    """One consumer's view of a stream."""

    def __init__(self, client: aioredis.Redis, key: str, group: str, consumer: str) -> None:
        """Make the view; nothing is sent yet."""
        self.client = client
        self.key = key
        self.group = group
        self.consumer = consumer

    async def ensure_group(self) -> None:
        """Create the stream and its consumer group where they are missing; entries already there are read."""
        try:
            await self.client.xgroup_create(self.key, self.group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def add(self, messages: Sequence[bytes]) -> None:
        """Append messages, in one round trip."""
        pipe = self.client.pipeline(transaction=False)
        for message in messages:
            pipe.xadd(self.key, {FIELD: message})
        await pipe.execute()

    async def read(self, count: int, block_ms: int) -> list[Claim]:
        """Claim up to `count` entries nobody has; wait up to `block_ms` (milliseconds) for the first."""
        try:
            reply: Any = await self.client.xreadgroup(
                self.group, self.consumer, {self.key: ">"}, count=count, block=block_ms
            )
        except ResponseError as error:
            await self._after(error)
            return []
        # RESP2 gives a list of [key, entries]; RESP3 a dict of key to [entries].
        if isinstance(reply, dict):
            entries = [entry for batches in reply.values() for batch in batches for entry in batch]
        else:
            entries = [entry for _, batch in reply or [] for entry in batch]
        return _claims(entries)

    async def take_over(self, idle_s: float, count: int) -> list[Claim]:
        """Claim up to `count` entries whose holder has not renewed them for `idle_s` (seconds)."""
        try:
            reply: Any = await self.client.xautoclaim(
                self.key, self.group, self.consumer, min_idle_time=int(idle_s * 1000), start_id="0-0", count=count
            )
        except ResponseError as error:
            await self._after(error)
            return []
        claims = _claims(reply[1])
        pipe = self.client.pipeline(transaction=False)
        for claim in claims:
            pipe.xpending_range(self.key, self.group, claim.entry_id, claim.entry_id, 1)
        pending: list[Any] = await pipe.execute(raise_on_error=False) if claims else []
        # What is not pending any more has been acknowledged by a holder who was only late.
        return [
            replace(claim, redelivered=True, lost=max(0, about[0]["times_delivered"] - 1))
            for claim, about in zip(claims, pending, strict=True)
            if isinstance(about, list) and about
        ]

    async def renew(self, entry_ids: Sequence[bytes]) -> None:
        """Tell the server that this consumer still works on these entries."""
        if entry_ids:
            await self._own(entry_ids, idle_ms=0)

    async def give_back(self, claims: Sequence[Claim]) -> None:
        """Let others take these entries over at once, as if this consumer had never had them."""
        for claim in claims:
            await self._own([claim.entry_id], idle_ms=86_400_000, deliveries=claim.lost)

    async def lose(self, claim: Claim) -> None:
        """Let others take the entry over at once; this consumer counts as lost with it in hand."""
        await self._own([claim.entry_id], idle_ms=86_400_000)

    async def acknowledge(self, entry_ids: Sequence[bytes]) -> None:
        """These entries are done: acknowledge and remove them."""
        if entry_ids:
            pipe = self.client.pipeline(transaction=True)
            self.acknowledge_in(pipe, entry_ids)
            await pipe.execute()

    def acknowledge_in(self, pipe: Any, entry_ids: Sequence[bytes]) -> None:
        """The same, as part of a transaction that also does something else."""
        pipe.xack(self.key, self.group, *entry_ids)
        pipe.xdel(self.key, *entry_ids)

    async def dead_letter(self, claim: Claim, dead: DeadLetters, reason: str) -> None:
        """Make the entry a dead letter and acknowledge it, both or neither."""
        pipe = self.client.pipeline(transaction=True)
        dead.add_in(pipe, self.key, claim.data, reason)
        self.acknowledge_in(pipe, [claim.entry_id])
        await pipe.execute()

    async def answer(
        self, entry_id: bytes, reply_key: str, reply: bytes, also: Callable[[Any], None] | None = None
    ) -> None:
        """Append `reply` to another stream, acknowledge the entry, and do what `also` adds: all or nothing."""
        pipe = self.client.pipeline(transaction=True)
        pipe.xadd(reply_key, {FIELD: reply})
        if also is not None:
            also(pipe)
        self.acknowledge_in(pipe, [entry_id])
        await pipe.execute()

    async def length(self) -> int:
        """Entries not yet acknowledged."""
        return int(await self.client.xlen(self.key))

    async def _own(self, entry_ids: Sequence[bytes], idle_ms: int, deliveries: int | None = None) -> None:
        ids: list[Any] = list(entry_ids)
        try:
            await self.client.xclaim(
                self.key, self.group, self.consumer, 0, ids, idle=idle_ms, retrycount=deliveries, justid=True
            )
        except ResponseError as error:
            await self._after(error)

    async def _after(self, error: ResponseError) -> None:
        if "NOGROUP" not in str(error):
            raise error
        await self.ensure_group()


def _claims(entries: Sequence[Any]) -> list[Claim]:
    # A taken-over entry that was deleted meanwhile comes back without fields.
    return [Claim(i, fields.get(FIELD, b"")) for i, fields in entries if fields]


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
