"""A WebSocket (RFC 6455), the server's side after the handshake; the framing is wsproto's."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from zonal.cri.streaming.link import Link

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A part of a message, as it comes: no message is ever held as a whole."""

    data: bytes
    first: bool
    last: bool


class WebSocket:
    """Messages both ways over a link."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._connection = Connection(ConnectionType.SERVER)

    async def pieces(self) -> AsyncIterator[Piece | None]:
        """What the client sends, text as its UTF-8, and ``None`` for a ping; ends when the client does.

        Raises ``ConnectionError``.
        """
        first = True
        try:
            while data := await self.link.read():
                self._connection.receive_data(data)
                for event in self._connection.events():
                    match event:
                        case BytesMessage(data=raw) | TextMessage(data=raw):
                            last = event.message_finished
                            yield Piece(raw.encode() if isinstance(raw, str) else bytes(raw), first, last)
                            first = last
                        case Ping():
                            if self._connection.state is ConnectionState.OPEN:
                                await self._send(event.response())
                            yield None
                        case CloseConnection():
                            if self._connection.state is ConnectionState.REMOTE_CLOSING:
                                await self._send(event.response())
                            return
                        case _:
                            pass  # the answer to a ping

        except RemoteProtocolError as error:
            log.info("a streaming client sent what is no WebSocket: %s", error)
            await self.close(CloseReason.PROTOCOL_ERROR, "no WebSocket frames")

    async def send(self, data: bytes | bytearray | memoryview | str) -> None:
        """A message. Raises ``ConnectionError``."""
        message = TextMessage(data=data) if isinstance(data, str) else BytesMessage(data=bytes(data))
        await self._send(message)

    async def ping(self) -> None:
        """One to which the client answers. Raises ``ConnectionError``."""
        await self._send(Ping())

    async def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """No more is sent. Raises ``ConnectionError``."""
        if self._connection.state is ConnectionState.OPEN:
            await self._send(CloseConnection(code=code, reason=reason))

    async def _send(self, event: BytesMessage | TextMessage | Ping | Pong | CloseConnection) -> None:
        try:
            data = self._connection.send(event)
        except LocalProtocolError as error:
            raise ConnectionResetError("the client has closed the WebSocket") from error
        await self.link.write(data)


class TunnelLink:
    """Bytes in binary messages: Kubernetes' SPDY through a WebSocket."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._pieces = socket.pieces()

    async def read(self) -> bytes:
        """See ``Link``."""
        async for piece in self._pieces:
            if piece is not None and piece.data:
                return piece.data
        return b""

    async def write(self, data: bytes) -> None:
        """See ``Link``."""
        await self._socket.send(data)

    async def finish(self) -> None:
        """See ``Link``."""
        await self._socket.close()

    def unsent(self) -> int:
        """See ``Link``."""
        return self._socket.link.unsent()

    def abort(self) -> None:
        """See ``Link``."""
        self._socket.link.abort()
