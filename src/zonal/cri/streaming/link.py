"""A way to and from a client that carries bytes, and what both ends of one need."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

READ_SIZE = 64 << 10
"""Bytes taken from a socket at once."""
HELD_LIMIT = 256 << 10
"""Bytes held of one stream that its reader has not taken yet."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds. Those of Kubernetes' own servers, but for the pings."""

    head: float = 30.0
    """From a connection to the whole of its request."""
    creation: float = 30.0
    """For the streams that a request is about to be opened."""
    idle: float = 4 * 3600.0
    """With nothing from the client or to it but answers to our pings."""
    ping: float = 10.0
    """Between two pings, by which a client is missed that went without a word."""
    linger: float = 30.0
    """For a client to hang up, once all that was for it has reached its host."""


class Link(Protocol):
    """Bytes both ways, in order."""

    async def read(self) -> bytes:
        """Some bytes, b"" at the end. Raises ``ConnectionError``."""
        ...

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more. Raises ``ConnectionError``."""
        ...

    async def finish(self) -> None:
        """Nothing more is written. Raises ``ConnectionError``."""
        ...

    def unsent(self) -> int:
        """Bytes that the client's host has not confirmed."""
        ...

    def abort(self) -> None:
        """Ends it at once: a read that waits returns."""
        ...


class SocketLink:
    """A connection as it is."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """See ``Link``."""
        return await self._reader.read(READ_SIZE)

    async def write(self, data: bytes) -> None:
        """See ``Link``."""
        if self._writer.is_closing():
            raise ConnectionResetError("the client has gone")
        self._writer.write(data)
        await self._writer.drain()

    async def finish(self) -> None:
        """See ``Link``."""
        await self._writer.drain()
        if self._writer.can_write_eof():
            with contextlib.suppress(OSError):
                self._writer.write_eof()

    def unsent(self) -> int:
        """See ``Link``."""
        socket = self._writer.get_extra_info("socket")
        if socket is None or socket.fileno() < 0:
            return 0
        queued = array.array("i", [0])
        fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, queued)  # for sockets, SIOCOUTQ: linux/sockios.h
        return queued[0] + self._writer.transport.get_write_buffer_size()

    def abort(self) -> None:
        """See ``Link``."""
        self._writer.transport.abort()


class Inflow:
    """Bytes of one stream on their way from the client to the one reader of them.

    ``released`` is told of the bytes that are held no more; ``taken``, which may wait, of those that the reader took,
    when it comes for more.
    """

    def __init__(
        self,
        released: Callable[[int], None] | None = None,
        taken: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._released = released
        self._taken = taken
        self._bytes = bytearray()
        self._done = 0
        self._ended = False
        self._came = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether no more comes."""
        return self._ended

    def feed(self, data: bytes) -> int:
        """More of it; what comes after the end is dropped. Returns the bytes that are held for it."""
        if self._ended:
            return 0
        self._bytes += data
        self._came.set()
        return len(data)

    def end(self) -> None:
        """No more comes."""
        self._ended = True
        self._came.set()

    def drop(self) -> None:
        """No one wants it any more."""
        self.end()
        self._clear()

    async def room(self) -> None:
        """Waits until no more is held than should be."""
        while len(self._bytes) > HELD_LIMIT:
            self._changed.clear()
            await self._changed.wait()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._done and self._taken is not None:
            done, self._done = self._done, 0
            with contextlib.suppress(ConnectionError):  # what came before the client went is still good
                await self._taken(done)
        while not self._bytes:
            if self._ended:
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()
        # Nothing is waited for from here on: whoever gives up waiting loses nothing.
        data = bytes(self._bytes)
        self._done = len(data)
        self._clear()
        return data

    def _clear(self) -> None:
        size = len(self._bytes)
        self._bytes.clear()
        self._changed.set()
        if self._released is not None:
            self._released(size)
