"""One session with the host: frames in and out over one channel, from HELLO to the channel's end."""

from __future__ import annotations

from zonal.agent.protocol import cbor
from zonal.agent.protocol.frames import (
    CALL,
    EVENT,
    HELLO,
    MAX_MESSAGE,
    REPLY,
    VERSION,
    FrameDecoder,
    ProtocolError,
    encode_message,
)
from zonal.agent.protocol.streams import common_window
from zonal.agent.ring import ChannelClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from zonal.agent.loop import Loop
    from zonal.agent.protocol.cbor import Value

    class Transport(Protocol):
        """What a channel must do; ``receive`` and ``send`` never wait and raise ``ChannelClosedError`` at the end."""

        def fileno(self) -> int:
            """Ready when something has happened."""
            ...

        def events(self, *, blocked: bool) -> int:
            """What the loop should wait for; ``blocked`` when ``send`` took less than it was given."""
            ...

        def acknowledge(self) -> None:
            """What happened is being looked after."""
            ...

        def receive(self, limit: int) -> bytes:
            """What has come, at most ``limit`` bytes; b"" when nothing has."""
            ...

        def send(self, data: memoryview) -> int:
            """Takes what there is room for; gives how much."""
            ...

        def flush(self) -> None:
            """Tells the other side of what was received and sent."""
            ...

        def close(self) -> None:
            """Tells the other side that it is over."""
            ...

    class Peer(Protocol):
        """Who acts on what the host says."""

        def hello(self) -> dict[str, Value]:
            """What our HELLO says."""
            ...

        def opened(self, link: Link, window: int, offsets: dict[int, int]) -> None:
            """The host's HELLO has come, with the streams that it knows and where they should go on."""
            ...

        def called(self, call: Call, method: str, params: dict[str, Value]) -> None:
            """A call."""
            ...

        def frame(self, number: int, kind: int, payload: bytes) -> None:
            """A frame of a stream."""
            ...

        def pump(self) -> bool:
            """There is room: more may be sent. Says whether something was."""
            ...

        def closed(self, link: Link, reason: str) -> None:
            """The session is over."""
            ...


_RECEIVE = 65536
_MOST_RECEIVES = 8
"""Pieces taken from the channel before other descriptors have their turn."""
_QUEUE_LIMIT = 65536
"""Bytes queued beyond the ring before streams have to wait."""
_MAX_ERROR = 4096


class Link:
    """Sends HELLO at once; hands calls and stream frames to its peer after the host's HELLO."""

    def __init__(self, loop: Loop, transport: Transport, peer: Peer) -> None:
        self._loop = loop
        self._transport = transport
        self._peer = peer
        self._decoder = FrameDecoder(MAX_MESSAGE)
        self._queue: list[memoryview] = []  # short, by _QUEUE_LIMIT
        self._queued = 0
        self._greeted = False
        self._closed = False
        self._fd = transport.fileno()
        self.send(encode_message(HELLO, cbor.encode(peer.hello())))
        loop.watch(self._fd, transport.events(blocked=False), self._on_event)
        loop.soon(lambda: self._on_event(0))

    def send(self, part: bytes | memoryview) -> None:
        """Queues whole frames, or parts of one after another; they leave when the handler that is running is done."""
        if self._closed:
            return
        if not self._queue:
            self._loop.soon(self._flush)
        self._queue.append(memoryview(part))
        self._queued += len(part)

    def wake(self) -> None:
        """Streams have something to send."""
        self._loop.soon(self._flush)

    def has_room(self) -> bool:
        """Whether streams may queue more."""
        return self._queued < _QUEUE_LIMIT

    def event(self, name: str, **fields: Value) -> None:
        """Tells the host something that it did not ask for."""
        self.send(encode_message(EVENT, cbor.encode({"event": name, **fields})))

    def close(self, reason: str) -> None:
        """Ends the session and gives the channel up; what was queued is lost."""
        if self._closed:
            return
        self._closed = True
        self._loop.unwatch(self._fd)
        self._transport.close()
        self._queue.clear()
        self._peer.closed(self, reason)

    def _on_event(self, _events: int) -> None:
        self._guarded(self._receive)
        self._guarded(self._drain)

    def _flush(self) -> None:
        self._guarded(self._drain)

    def _guarded(self, step: Callable[[], None]) -> None:
        if self._closed:
            return
        try:
            step()
        except (ChannelClosedError, ProtocolError, cbor.CborError) as error:
            self.close(str(error))

    def _receive(self) -> None:
        self._transport.acknowledge()
        for _ in range(_MOST_RECEIVES):
            data = self._transport.receive(_RECEIVE)
            if not data:
                return
            for stream, kind, payload in self._decoder.feed(data):
                self._handle(stream, kind, payload)
                if self._closed:
                    return
        self._loop.soon(lambda: self._on_event(0))

    def _drain(self) -> None:
        while True:
            while self._queue:
                frame = self._queue[0]
                sent = self._transport.send(frame)
                self._queued -= sent
                if sent < len(frame):
                    self._queue[0] = frame[sent:]
                    break
                self._queue.pop(0)
            if self._queue or not self._peer.pump():
                break
        self._transport.flush()
        self._loop.watch(self._fd, self._transport.events(blocked=bool(self._queue)), self._on_event)

    def _handle(self, stream: int, kind: int, payload: bytes) -> None:
        if stream:
            if not self._greeted:
                raise ProtocolError("a stream's frame before HELLO")
            self._peer.frame(stream, kind, payload)
            return
        message = cbor.decode(payload)
        if not isinstance(message, dict):
            raise ProtocolError("a message that is not a map")
        if kind == HELLO:
            self._hello(message)
        elif kind == CALL and self._greeted:
            number, method, params = message.get("id"), message.get("method"), message.get("params")
            if not isinstance(number, int) or not isinstance(method, str) or not isinstance(params, dict):
                raise ProtocolError("a call without id, method and params")
            self._peer.called(Call(self, number), method, params)
        else:
            raise ProtocolError(f"message of type {kind}, which the host has no reason to send")

    def _hello(self, message: dict[str, Value]) -> None:
        version, streams = message.get("version"), message.get("streams")
        if self._greeted or version != VERSION or not isinstance(streams, list):
            raise ProtocolError(f"HELLO of version {version}; this agent speaks {VERSION}")
        offsets: dict[int, int] = {}
        for entry in streams:
            if not isinstance(entry, dict):
                raise ProtocolError("HELLO with a stream that is not a map")
            number, consumed = entry.get("stream"), entry.get("consumed")
            if not isinstance(number, int) or not isinstance(consumed, int):
                raise ProtocolError("HELLO with a stream without its number and offset")
            offsets[number] = consumed
        self._greeted = True
        self._peer.opened(self, common_window(message.get("window")), offsets)


class Call:
    """A question of the host that wants one answer, now or later; an answer after the session's end is dropped."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number

    def reply(self, result: Value = None) -> None:
        """It was done."""
        self._link.send(encode_message(REPLY, cbor.encode({"id": self._number, "result": result})))

    def fail(self, code: str, message: str) -> None:
        """It was not; ``code`` is one of docs/protocol.md."""
        error: dict[str, Value] = {"code": code, "message": message[:_MAX_ERROR]}
        self._link.send(encode_message(REPLY, cbor.encode({"id": self._number, "error": error})))
