"""Port-forward, as clients speak it: pairs of SPDY streams, or pairs of channels of a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from zonal.cri.streaming.attending import attend
from zonal.cri.streaming.calls import PortForward, checked_ports
from zonal.cri.streaming.channels import ChannelSocket
from zonal.cri.streaming.handler import StreamHandler
from zonal.cri.streaming.link import READ_SIZE, Inflow, Link, Timeouts
from zonal.cri.streaming.outcome import outcome_of
from zonal.cri.streaming.spdy import SpdySession, SpdyStream
from zonal.cri.streaming.websocket import WebSocket
from zonal.errors import InvalidInputError

SPDY_PROTOCOLS = ("portforward.k8s.io",)
TUNNEL_PREFIX = "SPDY/3.1+"
"""Before the name of a protocol of SPDY's that goes through a WebSocket."""
WEBSOCKET_PROTOCOLS = ("SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io")
_LATER = 2
"""A data stream's number less that of its error stream, with clients that number no requests."""


@dataclass
class _Pair:
    """The two streams of a connection."""

    error: SpdyStream | None = None
    data: SpdyStream | None = None
    timer: asyncio.TimerHandle | None = None
    """Until the other one is there."""


class _Forwarding:
    """The connections of one SPDY session."""

    def __init__(self, call: PortForward, handler: StreamHandler, timeouts: Timeouts) -> None:
        self._call = call
        self._handler = handler
        self._timeouts = timeouts
        self._pairs: dict[str, _Pair] = {}
        self._complete: asyncio.Queue[_Pair] = asyncio.Queue()
        self._lonely: asyncio.Queue[_Pair] = asyncio.Queue()

    def accept(self, stream: SpdyStream) -> bool:
        """Takes a stream of the client's, and begins when the other of its pair is there."""
        kind = stream.headers.get("streamtype", "")
        if kind not in ("error", "data"):
            return False
        name = stream.headers.get("requestid") or str(stream.number - (_LATER if kind == "data" else 0))
        pair = self._pairs.get(name)
        if pair is None:
            pair = self._pairs[name] = _Pair()
            expiry = asyncio.get_running_loop().call_later(self._timeouts.creation, self._expire, name, pair)
            pair.timer = expiry
            stream.on_lost = partial(self._forget, name, pair)
        if kind == "error" and pair.error is None:
            pair.error = stream
        elif kind == "data" and pair.data is None:
            pair.data = stream
        else:
            return False
        if pair.error is not None and pair.data is not None:
            self._forget(name, pair)
            self._complete.put_nowait(pair)
        return True

    async def work(self) -> None:
        """Makes the connections, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._end_lonely())
            while True:
                pair = await self._complete.get()
                task = group.create_task(self._forward(pair))
                if pair.data is not None:
                    pair.data.on_lost = task.cancel

    def _forget(self, name: str, pair: _Pair) -> None:
        if pair.timer is not None:
            pair.timer.cancel()
        if self._pairs.get(name) is pair:
            del self._pairs[name]

    def _expire(self, name: str, pair: _Pair) -> None:
        self._forget(name, pair)
        self._lonely.put_nowait(pair)

    async def _end_lonely(self) -> None:
        while True:
            pair = await self._lonely.get()
            for stream in (pair.error, pair.data):
                if stream is not None:
                    await stream.reset()

    async def _forward(self, pair: _Pair) -> None:
        data, error = pair.data, pair.error
        assert data is not None and error is not None
        with contextlib.suppress(ConnectionError):  # the client has gone
            try:
                port = _port(data)
                await _carry(self._handler, self._call.sandbox_id, port, aiter(data), data.write, data.finish)
            except Exception as cause:
                what = f"error forwarding port {data.headers.get('port', '')[:16]} to pod {self._call.sandbox_id}"
                await error.write(f"{what}: {outcome_of(cause, what).message}".encode())
                await error.finish()
                await data.reset()
            else:
                await error.finish()
                data.inflow.drop()
                error.inflow.drop()


async def serve_spdy(link: Link, call: PortForward, handler: StreamHandler, timeouts: Timeouts) -> None:
    """Forwards what the client asks for, until it has gone."""
    forwarding = _Forwarding(call, handler, timeouts)
    await attend(SpdySession(link, forwarding.accept), forwarding.work(), timeouts)


async def serve_websocket(
    socket: WebSocket, protocol: str, call: PortForward, handler: StreamHandler, timeouts: Timeouts
) -> None:
    """Forwards the call's ports, channel 2 n for the data of the n-th and 2 n + 1 for its error, until all have ended.

    Each channel begins with the port in two bytes, little-endian.
    """
    inflows = {2 * index: Inflow() for index in range(len(call.ports))}
    channels = ChannelSocket(socket, inflows, text="base64" in protocol)

    async def forward(index: int, port: int) -> None:
        async def write(data: bytes) -> None:
            await channels.write(2 * index, data)

        async def finish() -> None:
            inflows[2 * index].drop()  # there is no word for the end of one direction

        for channel in (2 * index, 2 * index + 1):
            await channels.write(channel, port.to_bytes(2, "little"))
        try:
            await _carry(handler, call.sandbox_id, port, aiter(inflows[2 * index]), write, finish)
        except Exception as cause:
            what = f"error forwarding port {port} to pod {call.sandbox_id}"
            await channels.write(2 * index + 1, f"{what}: {outcome_of(cause, what).message}".encode())

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for index, port in enumerate(call.ports):
                group.create_task(forward(index, port))

    await attend(channels, work(), timeouts)


async def _carry(
    handler: StreamHandler,
    sandbox_id: str,
    port: int,
    inflow: AsyncIterator[bytes],
    write: Callable[[bytes], Awaitable[None]],
    finish: Callable[[], Awaitable[None]],
) -> None:
    """Connects, and carries both ways until both have ended. Raises what the handler or the connection does."""
    reader, writer = await handler.port_forward(sandbox_id, port)

    async def up() -> None:
        async for data in inflow:
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def down() -> None:
        while data := await reader.read(READ_SIZE):
            await write(data)
        await finish()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(up())
            group.create_task(down())
    finally:
        writer.close()


def _port(stream: SpdyStream) -> int:
    text = stream.headers.get("port", "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        raise InvalidInputError(f"{text[:16]!r} is no port")
    return checked_ports((int(text),))[0]
