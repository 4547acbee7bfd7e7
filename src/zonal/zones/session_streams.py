"""The host's ends of a session's streams: output to read, input to write, both bounded by the window of credit."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable

from zonal.agent.protocol.frames import DATA, END, MAX_PAYLOAD, ProtocolError, encode_frame, encode_offset, encode_reset
from zonal.agent.protocol.streams import ReceiveAccount, SendAccount
from zonal.errors import ZoneFailedError

_SMALL = 4096
MAX_MERGED = 120 << 10
"""Bytes that are handed on at once, if so many are there: what follows in their path costs more for each piece than for
each byte. Larger ones malloc would map by themselves, and fresh pages are dear."""


class StreamBrokenError(ZoneFailedError):
    """The other side reads no more, or the session ended before the stream did."""


class OutputReader:
    """One output stream of a workload. At most one window of it is kept here; a slow reader slows only this stream."""

    def __init__(
        self, number: int, offset: int, window: int, send: Callable[[bytes], None], credit: Callable[[int, int], None]
    ) -> None:
        self.number = number
        self._account = ReceiveAccount(offset, window)
        self._chunks: deque[bytes] = deque()
        self._send = send
        self._credit = credit
        self._changed = asyncio.Event()
        self._broken: str | None = None
        self._given_up = False

    @property
    def offset(self) -> int:
        """Bytes of the stream that are done with: where a later session goes on."""
        return self._account.consumed

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. They count as done with only after ``done``.

        Raises ``StreamBrokenError`` when the session has ended before the stream.
        """
        if not self._chunks:
            await self._more()
        return self._chunks.popleft() if self._chunks else b""

    async def read_much(self) -> bytes:
        """As ``read``; what fills frames comes together, up to ``MAX_MERGED``.

        Less than that keeps its order among the streams of a process, as far as there is one.
        """
        data = await self.read()
        pieces, size = [data], len(data)
        while self._chunks and len(pieces[-1]) == MAX_PAYLOAD and size + len(self._chunks[0]) <= MAX_MERGED:
            pieces.append(self._chunks.popleft())
            size += len(pieces[-1])
        return b"".join(pieces) if len(pieces) > 1 else data

    async def _more(self) -> None:
        while not self._chunks and not self._account.ended:
            if self._broken is not None:
                raise StreamBrokenError(self._broken)
            self._changed.clear()
            await self._changed.wait()

    def done(self, count: int) -> None:
        """So many of the bytes read are safe, and need not be told again."""
        offset = self._account.consume(count)
        if offset is not None and self._broken is None:
            self._credit(self.number, offset)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """All the bytes; each chunk counts as done with when the next one is asked for."""
        while chunk := await self.read():
            yield chunk
            self.done(len(chunk))

    def give_up(self) -> None:
        """No more is wanted: the workload's next write fails, and what is under way is dropped."""
        if self._given_up or self._account.ended or self._broken is not None:
            return
        self._given_up = True
        self._chunks.clear()
        self._send(encode_reset(self.number, 0))

    def on_data(self, payload: bytes) -> None:
        """For the session: bytes from the zone. Raises ``ProtocolError``."""
        self._account.data(len(payload))
        if self._given_up:
            return
        if self._chunks and len(self._chunks[-1]) + len(payload) <= _SMALL:
            payload = self._chunks.pop() + payload  # a zone that sends byte by byte costs no more than another
        self._chunks.append(payload)
        self._changed.set()

    def on_end(self, total: int) -> None:
        """For the session: the stream's end. Raises ``ProtocolError``."""
        self._account.end(total)
        self._changed.set()

    def on_session_end(self, reason: str) -> None:
        """For the session: nothing more can come."""
        self._broken = reason
        self._changed.set()


class InputWriter:
    """One input stream of a workload; ``write`` waits while a window of bytes is not consumed."""

    def __init__(
        self, number: int, offset: int, window: int, send: Callable[[bytes], None], *, ended: bool = False
    ) -> None:
        self.number = number
        self._account = SendAccount(offset, window)
        self._send = send
        self._changed = asyncio.Event()
        self._broken: str | None = None
        self._ended = ended

    async def write(self, data: bytes) -> None:
        """Returns when all of ``data`` is on its way; raises ``StreamBrokenError`` when nobody reads any more."""
        if self._ended:
            raise StreamBrokenError("the input was ended before")
        view = memoryview(data)
        while view:
            if self._broken is not None:
                raise StreamBrokenError(self._broken)
            room = min(self._account.room(), MAX_PAYLOAD)
            if room <= 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            piece, view = bytes(view[:room]), view[room:]
            self._account.sent += len(piece)
            self._send(encode_frame(self.number, DATA, piece))

    def end(self) -> None:
        """No more will be written: the workload reads end of file. A terminal stays open. Does nothing when broken."""
        if not self._ended:
            self._ended = True
            if self._broken is None:
                self._send(encode_offset(self.number, END, self._account.sent))

    def on_resumed(self, consumed: int) -> None:
        """For the session: of the bytes before the offset, the workload has consumed only so many yet."""
        self._account.consumed = consumed

    def on_credit(self, consumed: int) -> None:
        """For the session: the zone has consumed so much. Raises ``ProtocolError``."""
        self._account.credit(consumed)
        self._changed.set()

    def on_reset(self, reason: int) -> None:
        """For the session: the workload reads no more. Raises ``ProtocolError`` when that was said before."""
        if self._broken is not None:
            raise ProtocolError(f"a second reset of stream {self.number}")
        self.on_session_end(f"the workload reads its input no more: {os.strerror(reason)}")

    def on_session_end(self, reason: str) -> None:
        """For the session: nothing can be sent any more."""
        self._broken = reason
        self._changed.set()
