"""A SPDY/3.1 session, the server's side: the streams that a client opens, their windows, pings and their ends.

Windows: clients of Go's spdystream (kubectl, crictl, Kubernetes' API server) neither heed nor send them; what
holds those back is TCP. So a client's windows count from the first sign that it knows of them, a SETTINGS with an
initial window or a WINDOW_UPDATE, and from then on are kept to. Ours are announced to every client: one that keeps to
them never blocks one stream by another; for one that does not, the socket is left unread while a stream is full.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping

from zonal.cri.streaming.link import HELD_LIMIT, Inflow, Link
from zonal.cri.streaming.spdy_frames import (
    Data,
    Frame,
    FrameReader,
    FrameWriter,
    GoAway,
    GoAwayStatus,
    Headers,
    Ping,
    Reset,
    ResetStatus,
    Settings,
    SpdyError,
    SynStream,
    WindowUpdate,
    data_frame,
    go_away_frame,
    ping_frame,
    reset_frame,
    settings_frame,
    window_update_frame,
)

log = logging.getLogger(__name__)

MAX_STREAMS = 512
"""Open at once in a session; further ones are refused."""
HELD_IN_ALL = 8 << 20
"""Bytes held of all streams of a session; more are left in the socket."""
FRAME_SIZE = 64 << 10
"""Bytes of output in a frame."""
_DEFAULT_WINDOW = 64 << 10
_SESSION_WINDOW = 64 << 20
"""Announced: what bounds memory are the streams' own, and ``HELD_IN_ALL``."""
_MAX_WINDOW = 0x7FFFFFFF


class SpdyStream:
    """One stream of a session."""

    def __init__(self, session: SpdySession, number: int, headers: Mapping[str, str], window: int) -> None:
        self.number = number
        self.headers = headers
        self.window = window
        """Bytes that the client would have now; below zero if more were sent before it spoke of windows."""
        self.inflow = Inflow(session.released, self._taken)
        self.room = asyncio.Event()
        """Set whenever the window or the session's may have grown, or all is over."""
        self.finished = False
        self.on_lost: Callable[[], object] | None = None
        """Called when the client has reset it, or has gone."""
        self._session = session
        self._untold = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self.inflow)

    async def write(self, data: bytes) -> None:
        """Returns when all of it is on its way and there is room for more. Raises ``ConnectionError``."""
        view = memoryview(data)
        while view:
            size = await self._session.allowance(self, min(len(view), FRAME_SIZE))
            await self._session.send(data_frame(self.number, view[:size]))
            view = view[size:]

    async def finish(self) -> None:
        """No more output; a second time it does nothing. Raises ``ConnectionError``."""
        if not self.finished:
            self.finished = True
            self._session.ended(self)
            await self._session.send(data_frame(self.number, b"", fin=True))

    async def reset(self, status: ResetStatus = ResetStatus.CANCEL) -> None:
        """Ends it at once, both ways. Raises ``ConnectionError``."""
        if self._session.forget(self):
            await self._session.send(reset_frame(self.number, status))

    def lose(self) -> None:
        """The client has reset it, or has gone."""
        self.finished = True
        self.inflow.drop()
        self.room.set()
        if self.on_lost is not None:
            self.on_lost()

    @property
    def read_ended(self) -> bool:
        """Whether the client has closed its side."""
        return self.inflow.ended

    async def _taken(self, size: int) -> None:
        self._untold += size
        if self._untold >= HELD_LIMIT // 2 and not self.inflow.ended:
            delta, self._untold = self._untold, 0
            await self._session.send(window_update_frame(self.number, delta))


class SpdySession:
    """All streams of a connection; ``accept`` is asked for each new one, and refuses it with ``False``."""

    def __init__(self, link: Link, accept: Callable[[SpdyStream], bool]) -> None:
        self._link = link
        self._accept = accept
        self._reader = FrameReader()
        self._writer = FrameWriter()
        self._streams: dict[int, SpdyStream] = {}
        self._last_stream = 0
        self._window = _DEFAULT_WINDOW
        self._initial_window = _DEFAULT_WINDOW
        self._windows_count = False
        self._received = 0
        self._parts = False
        self._client_parts = False
        self._over = False
        self._pings = 0
        self._held = 0
        self._fewer_held = asyncio.Event()
        self.active = time.monotonic()
        """When something was last done, as opposed to pings of ours."""

    @property
    def link(self) -> Link:
        """What it goes over."""
        return self._link

    async def read_all(self) -> None:
        """Handles frames until the client has gone. See ``Attended``."""
        try:
            await self._link.write(
                settings_frame(HELD_LIMIT) + window_update_frame(0, _SESSION_WINDOW - _DEFAULT_WINDOW)
            )
            while data := await self._link.read():
                for frame in self._reader.feed(data):
                    await self._handle(frame)
                if self._client_parts and not self._parts and not self._streams:
                    break
        except SpdyError as error:
            log.info("a streaming client sent what is no SPDY/3.1: %s", error)
            await self._link.write(go_away_frame(self._last_stream, GoAwayStatus.PROTOCOL_ERROR))
            await self._link.finish()
        finally:
            self._over = True
            for stream in self._streams.values():
                stream.lose()

    async def ping(self) -> None:
        """Sends one, whose answer counts as no sign of life. See ``Attended``."""
        self._pings = self._pings % (_MAX_WINDOW - 1) + 2
        await self._link.write(ping_frame(self._pings))

    async def finish(self) -> None:
        """Ends what is open in good order; what still comes is dropped. See ``Attended``."""
        self._parts = True
        for stream in tuple(self._streams.values()):
            stream.inflow.drop()
            await stream.finish()
        await self._link.write(go_away_frame(self._last_stream, GoAwayStatus.OK))
        await self._link.finish()

    async def send(self, frame: bytes) -> None:
        """A frame; returns when there is room for more. Raises ``ConnectionError``."""
        if self._over:
            raise ConnectionResetError("the client has gone")
        self.active = time.monotonic()
        await self._link.write(frame)

    async def allowance(self, stream: SpdyStream, wanted: int) -> int:
        """Waits until something may be sent, and takes it from the windows: at most ``wanted`` bytes."""
        while True:
            if stream.finished or self._over:
                raise ConnectionResetError("the client has closed the stream")
            size = min(wanted, stream.window, self._window) if self._windows_count else wanted
            if size > 0:
                stream.window -= size
                self._window -= size
                return size
            stream.room.clear()
            await stream.room.wait()

    def released(self, size: int) -> None:
        """So many bytes fewer are held."""
        self._held -= size
        self._fewer_held.set()

    def ended(self, stream: SpdyStream) -> None:
        """One side of it has ended; it is forgotten once both have."""
        if stream.finished and stream.read_ended:
            self._streams.pop(stream.number, None)

    def forget(self, stream: SpdyStream) -> bool:
        """It is over; says whether it was open."""
        stream.finished = True
        stream.inflow.drop()
        stream.room.set()
        return self._streams.pop(stream.number, None) is not None

    async def _handle(self, frame: Frame) -> None:
        if not isinstance(frame, Ping) or frame.number % 2:
            self.active = time.monotonic()
        match frame:
            case Data():
                await self._data(frame)
            case SynStream():
                await self._opened(frame)
            case Ping(number):
                if number % 2:
                    await self._link.write(ping_frame(number))
            case WindowUpdate():
                await self._window_update(frame)
            case Settings(initial_window):
                self._settings(initial_window)
            case Reset(number):
                if (stream := self._streams.pop(number, None)) is not None:
                    stream.lose()
            case GoAway():
                self._client_parts = True
            case Headers(number, fin):
                if fin and (stream := self._streams.get(number)) is not None:
                    self._read_ended(stream)

    async def _opened(self, frame: SynStream) -> None:
        number = frame.stream
        if number % 2 == 0 or number <= self._last_stream:
            raise SpdyError(f"stream {number} after stream {self._last_stream}: a client's are odd and grow")
        self._last_stream = number
        stream = SpdyStream(self, number, frame.headers, self._initial_window)
        if self._parts or self._client_parts or len(self._streams) >= MAX_STREAMS:
            await self.send(reset_frame(number, ResetStatus.REFUSED_STREAM))
            return
        # Before anyone knows of it: a client takes nothing of a stream that has had no reply.
        reply = self._writer.reply(number)
        self._streams[number] = stream
        if not self._accept(stream):
            del self._streams[number]
            # The reply's headers are part of the compressor's past: it goes out all the same.
            await self.send(reply + reset_frame(number, ResetStatus.REFUSED_STREAM))
            return
        await self.send(reply)
        if frame.fin:
            self._read_ended(stream)

    async def _data(self, frame: Data) -> None:
        if not frame.stream:
            raise SpdyError("data for stream 0")
        if frame.stream > self._last_stream:
            raise SpdyError(f"data for stream {frame.stream}, which was never opened")
        self._received += len(frame.data)
        if self._received >= _SESSION_WINDOW // 4:
            delta, self._received = self._received, 0
            await self.send(window_update_frame(0, delta))
        stream = self._streams.get(frame.stream)
        if stream is None:
            return  # on its way when the stream ended
        self._held += stream.inflow.feed(frame.data)
        if frame.fin:
            self._read_ended(stream)
        await stream.inflow.room()
        while self._held > HELD_IN_ALL:
            self._fewer_held.clear()
            await self._fewer_held.wait()

    def _read_ended(self, stream: SpdyStream) -> None:
        stream.inflow.end()
        self.ended(stream)

    async def _window_update(self, frame: WindowUpdate) -> None:
        self._windows_count = True
        if not frame.stream:
            self._window += frame.delta
            if self._window > _MAX_WINDOW:
                raise SpdyError("a window of more than 2 GiB")
            streams = tuple(self._streams.values())
        elif (stream := self._streams.get(frame.stream)) is not None:
            stream.window += frame.delta
            if stream.window > _MAX_WINDOW:
                await stream.reset(ResetStatus.FLOW_CONTROL_ERROR)
                stream.lose()
            streams = (stream,)
        else:
            return
        for each in streams:
            each.room.set()

    def _settings(self, initial_window: int | None) -> None:
        if initial_window is None:
            return
        self._windows_count = True
        grown = initial_window - self._initial_window
        self._initial_window = initial_window
        for stream in self._streams.values():
            stream.window += grown
            stream.room.set()
