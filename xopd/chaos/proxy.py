"""A TCP proxy that can break what passes through it: connections reset, or nothing moving for a while."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

CHUNK = 65_536
RESET_AT_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: closing sends RST instead of FIN."""


class FaultProxy:
    """Forwards connections to 127.0.0.1:`port` to a target."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        """Prepare; nothing listens yet."""
        self.port = port
        self.target = target
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises OSError where the port is taken."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
            self.reset()
            await self._server.wait_closed()

    def reset(self) -> int:
        """Reset every open connection (RST to both sides); returns how many."""
        writers = list(self._writers)
        for writer in writers:
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            writer.transport.abort()
        return len(writers) // 2

    async def stall(self, seconds: float) -> None:
        """Let nothing pass for so long; connections stay open, and new ones are accepted but not answered."""
        self._flowing.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection(*self.target)
            self._writers.add(far)
            await asyncio.gather(self._pump(reader, far), self._pump(far_reader, writer))
        except OSError:
            pass  # the target is down, or a side has gone: the other one is told by the closing below
        finally:
            for end in (writer, far):
                if end is not None:
                    self._writers.discard(end)
                    end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
