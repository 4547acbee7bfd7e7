"""Sockets beside the control API, by which a client on this host carries the streams of a process without gRPC.

A client connects, sends a token of its own choice, and names the same token in its first request of ``Run``,
``Exec`` or ``Attach``. From then on the socket carries input as it is, whose end the client tells by shutting its side
down, and output in pieces: which stream, how many bytes, the bytes. All else, such as a terminal's size, signals and
the exit status, goes by the call. Output ends with the socket; the call's last word may come before that.

gRPC takes milliseconds for each of its messages where system calls are dear, and copies what it carries some times.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from zonal.api.streams import HEADER, TOKEN_SIZE
from zonal.errors import InvalidInputError, UnavailableError

log = logging.getLogger(__name__)

CLAIM_TIMEOUT = 10.0
"""Seconds between a connection, its token, and the call that names it."""
MAX_WAITING = 256
"""Connections that no call has named yet."""
MAX_HELD = 64 << 10
"""Bytes kept of input that the process has no room for, and of output that the client has not taken."""


class StreamSocket(asyncio.BufferedProtocol):
    """One client's streams."""

    def __init__(self, sockets: StreamSockets) -> None:
        self._sockets = sockets
        self._token = bytearray()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(MAX_HELD)
        self._input: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._gone = False
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def token(self) -> bytes:
        """What the client calls itself; shorter than it should be until all of it has come."""
        return bytes(self._token)

    async def write(self, stream: int, data: bytes) -> None:
        """Output, of stream 1 or 2; returns when there is room for more. Without a client it is dropped."""
        if self._transport is not None and not self._gone:
            self._transport.writelines((HEADER.pack(stream, len(data)), data))
            await self._room.wait()
        else:
            await asyncio.sleep(0)  # who has much to say to nobody must not keep all others from their turn

    async def read(self) -> bytes:
        """Some input, b"" at its end."""
        while not self._input:
            if self._ended:
                return b""
            self._came.clear()
            await self._came.wait()
        data = self._input.popleft()
        self._held -= len(data)
        if self._transport is not None and not self._ended and self._held < MAX_HELD:
            self._transport.resume_reading()
        return data

    def claimed(self) -> None:
        """A call has named it."""
        if self._deadline is not None:
            self._deadline.cancel()

    def close(self) -> None:
        """Ends it, once what was written is on its way."""
        self.claimed()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.BaseProtocol``."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=MAX_HELD)
        self._deadline = asyncio.get_running_loop().call_later(CLAIM_TIMEOUT, self._transport.abort)
        if not self._sockets.came(self):
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> bytearray:
        """See ``asyncio.BufferedProtocol``."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See ``asyncio.BufferedProtocol``."""
        data = bytes(memoryview(self._buffer)[:nbytes])
        if (missing := TOKEN_SIZE - len(self._token)) > 0:
            self._token += data[:missing]
            data = data[missing:]
            if len(self._token) == TOKEN_SIZE:
                self._sockets.named(self)
        if data:
            self._input.append(data)
            self._held += len(data)
            self._came.set()
            if self._held >= MAX_HELD and self._transport is not None:
                self._transport.pause_reading()

    def eof_received(self) -> bool:
        """See ``asyncio.BufferedProtocol``: output goes on."""
        self._ended = True
        self._came.set()
        return len(self._token) == TOKEN_SIZE

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.BaseProtocol``."""
        del exc
        self._gone = self._ended = True
        self._came.set()
        self._room.set()
        self._sockets.lost(self)

    def pause_writing(self) -> None:
        """See ``asyncio.BaseProtocol``."""
        self._room.clear()

    def resume_writing(self) -> None:
        """See ``asyncio.BaseProtocol``."""
        self._room.set()


class StreamSockets:
    """All that were opened and that no call has named yet."""

    def __init__(self) -> None:
        self._waiting: set[StreamSocket] = set()
        self._named: dict[bytes, asyncio.Future[StreamSocket]] = {}

    @asynccontextmanager
    async def claimed(self, token: bytes) -> AsyncGenerator[StreamSocket | None]:
        """The socket of that name within the block; none for an empty one. Raises ``InvalidInputError``."""
        if not token:
            yield None
            return
        if len(token) != TOKEN_SIZE:
            raise InvalidInputError(f"the token of a socket has {TOKEN_SIZE} bytes, not {len(token)}")
        future = self._of(token)
        try:
            async with asyncio.timeout(CLAIM_TIMEOUT):
                socket = await asyncio.shield(future)
        except TimeoutError:
            raise InvalidInputError("no socket has the token that the call names") from None
        finally:
            self._named.pop(token, None)
        self._waiting.discard(socket)
        socket.claimed()
        try:
            yield socket
        finally:
            socket.close()

    def came(self, socket: StreamSocket) -> bool:
        """Says whether there is room for one more."""
        if len(self._waiting) >= MAX_WAITING:
            log.warning("%d sockets wait for their calls: one more is turned away", MAX_WAITING)
            return False
        self._waiting.add(socket)
        return True

    def named(self, socket: StreamSocket) -> None:
        """Its token is there."""
        future = self._of(socket.token)
        if future.done():
            socket.close()  # a second one of that name
        else:
            future.set_result(socket)

    def lost(self, socket: StreamSocket) -> None:
        """Its client has gone."""
        self._waiting.discard(socket)
        future = self._named.get(socket.token)
        if future is not None and future.done() and future.result() is socket:
            del self._named[socket.token]

    def close(self) -> None:
        """Turns all away."""
        for socket in tuple(self._waiting):
            socket.close()

    def _of(self, token: bytes) -> asyncio.Future[StreamSocket]:
        if token not in self._named:
            self._named[token] = asyncio.get_running_loop().create_future()
        return self._named[token]


@asynccontextmanager
async def serving_streams(path: Path) -> AsyncGenerator[StreamSockets]:
    """Listens on ``path``, which only we can connect to, within the block. Raises ``UnavailableError``."""
    sockets = StreamSockets()
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server = await asyncio.get_running_loop().create_unix_server(lambda: StreamSocket(sockets), path)
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {path}: {error.strerror}", hint="is its folder there and writable?"
        ) from error
    finally:
        os.umask(before)
    try:
        yield sockets
    finally:
        server.close()
        sockets.close()
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
