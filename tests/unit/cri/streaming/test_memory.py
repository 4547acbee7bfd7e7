"""What a client can make the server hold, when nobody takes its input."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from zonal.cri.streaming.channels import ChannelSocket
from zonal.cri.streaming.link import HELD_LIMIT, READ_SIZE, Inflow
from zonal.cri.streaming.spdy import HELD_IN_ALL, SpdySession
from zonal.cri.streaming.spdy_frames import FrameWriter, data_frame
from zonal.cri.streaming.websocket import WebSocket


class EndlessLink:
    """A client that sends ``first``, then what ``more`` gives, for ever."""

    def __init__(self, first: bytes, more: Callable[[], bytes]) -> None:
        self._first = first
        self._more = more
        self.taken = 0

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        if self._first:
            data, self._first = self._first, b""
            return data
        data = self._more()
        self.taken += len(data)
        return data

    async def write(self, data: bytes) -> None:
        pass

    async def finish(self) -> None:
        pass

    def unsent(self) -> int:
        return 0

    def abort(self) -> None:
        pass


async def taken_before_it_stops(link: EndlessLink, read_all: Callable[[], asyncio.Future[None]]) -> int:
    """Bytes that are read until no more are."""
    reading = read_all()
    before = -1
    while link.taken != before:
        before = link.taken
        for _ in range(1000):
            await asyncio.sleep(0)
    assert not reading.done()
    reading.cancel()
    return link.taken


async def test_a_spdy_stream_holds_no_more_than_its_window_and_a_read() -> None:
    link = EndlessLink(FrameWriter().open(1, {}), lambda: data_frame(1, bytes(READ_SIZE - 8)))
    session = SpdySession(link, lambda stream: True)
    taken = await taken_before_it_stops(link, lambda: asyncio.ensure_future(session.read_all()))
    assert HELD_LIMIT <= taken <= HELD_LIMIT + 2 * READ_SIZE


async def test_the_streams_of_a_spdy_session_hold_no_more_than_all_may() -> None:
    writer = FrameWriter()
    numbers = range(1, 400, 2)
    sent = 0

    def more() -> bytes:
        nonlocal sent
        sent += 1
        return data_frame(numbers[sent % len(numbers)], bytes(READ_SIZE - 8))

    link = EndlessLink(b"".join(writer.open(number, {}) for number in numbers), more)
    session = SpdySession(link, lambda stream: True)
    taken = await taken_before_it_stops(link, lambda: asyncio.ensure_future(session.read_all()))
    assert HELD_IN_ALL <= taken <= HELD_IN_ALL + 2 * READ_SIZE


async def test_a_websocket_s_channel_holds_no_more_than_its_limit_and_a_read() -> None:
    size = READ_SIZE - 8
    message = bytes((0x82, 0xFE)) + size.to_bytes(2, "big") + bytes(4) + bytes(size)  # masked with zeros
    link = EndlessLink(b"", lambda: message)
    channels = ChannelSocket(WebSocket(link), {0: Inflow()})
    taken = await taken_before_it_stops(link, lambda: asyncio.ensure_future(channels.read_all()))
    assert HELD_LIMIT <= taken <= HELD_LIMIT + 2 * READ_SIZE
