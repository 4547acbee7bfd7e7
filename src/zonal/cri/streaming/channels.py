"""Numbered channels in a WebSocket: Kubernetes' ``channel.k8s.io`` protocols.

A message is the channel's number, one byte, and data of it; with the base64 variants, a digit and base64 as text. In
v5, a message of 255 and a channel's number closes the client's side of that channel. There is no flow control by
channel: while one is full, nothing is read.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Mapping

from wsproto.frame_protocol import CloseReason

from zonal.cri.streaming.link import Inflow, Link
from zonal.cri.streaming.websocket import Piece, WebSocket

log = logging.getLogger(__name__)

FRAME_SIZE = 64 << 10
"""Bytes of output in a message."""
_CLOSE_SIGNAL = 255


class ChannelSocket:
    """The channels of one socket; ``inflows`` are those that the client may write to, others are passed over."""

    def __init__(
        self, socket: WebSocket, inflows: Mapping[int, Inflow], *, text: bool = False, closes: bool = False
    ) -> None:
        self.active = time.monotonic()
        """See ``Attended``."""
        self._socket = socket
        self._inflows = inflows
        self._text = text
        self._closes = closes
        self._channel: int | None = None
        self._pending = b""

    @property
    def link(self) -> Link:
        """See ``Attended``."""
        return self._socket.link

    async def write(self, channel: int, data: bytes) -> None:
        """Returns when there is room for more. Raises ``ConnectionError``."""
        for start in range(0, max(1, len(data)), FRAME_SIZE):
            self.active = time.monotonic()
            piece = data[start : start + FRAME_SIZE]
            if self._text:
                await self._socket.send(f"{channel}{base64.b64encode(piece).decode()}")
            else:
                await self._socket.send(bytes((channel,)) + piece)

    async def read_all(self) -> None:
        """See ``Attended``."""
        try:
            async for piece in self._socket.pieces():
                self.active = time.monotonic()
                if piece is None:
                    continue
                inflow = self._inflow_of(piece)
                if inflow is not None:
                    await inflow.room()
        except ValueError as error:
            log.info("a streaming client sent what is no message of its protocol: %s", error)
            await self._socket.close(CloseReason.UNSUPPORTED_DATA, str(error))
        finally:
            for inflow in self._inflows.values():
                inflow.drop()

    async def ping(self) -> None:
        """See ``Attended``."""
        await self._socket.ping()

    async def finish(self) -> None:
        """See ``Attended``."""
        for inflow in self._inflows.values():
            inflow.drop()
        await self._socket.close()

    def _inflow_of(self, piece: Piece) -> Inflow | None:
        """Where the piece went. Raises ``ValueError``."""
        data = piece.data
        if piece.first:
            self._channel, self._pending = None, b""
        if self._channel is None:
            if not data:
                return None
            self._channel, data = data[0], data[1:]
            if self._text:
                self._channel -= ord("0")
        if self._closes and self._channel == _CLOSE_SIGNAL:
            self._close_channel(data, last=piece.last)
            return None
        inflow = self._inflows.get(self._channel)
        if inflow is not None:
            inflow.feed(self._decoded(data, last=piece.last) if self._text else data)
        return inflow

    def _decoded(self, data: bytes, *, last: bool) -> bytes:
        data = self._pending + data
        whole = len(data) if last else len(data) - len(data) % 4
        self._pending = data[whole:]
        try:
            return base64.b64decode(data[:whole], validate=True)
        except binascii.Error as error:
            raise ValueError(f"a message that is no base64: {error}") from error

    def _close_channel(self, data: bytes, *, last: bool) -> None:
        self._pending += data
        if len(self._pending) > 1 or (last and not self._pending):
            raise ValueError("a close signal that names not one channel")
        if last and (inflow := self._inflows.get(self._pending[0])) is not None:
            inflow.end()
