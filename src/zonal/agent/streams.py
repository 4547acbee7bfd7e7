"""The agent's ends of the streams: a descriptor of a workload on one side, frames on the other.

What the host has not consumed is kept, so that a new session takes up a stream where the last one left it.
"""

from __future__ import annotations

import errno
import os

from zonal.agent.loop import READ, WRITE
from zonal.agent.protocol.frames import (
    CREDIT,
    DATA,
    END,
    MAX_PAYLOAD,
    ProtocolError,
    encode_frame,
    encode_offset,
    encode_reset,
)
from zonal.agent.protocol.streams import ReceiveAccount, SendAccount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from zonal.agent.loop import Loop
    from zonal.agent.protocol.cbor import Value

    class Sink(Protocol):
        """Where frames go: a session that is open."""

        def send(self, frame: bytes) -> None:
            """Queues a frame."""
            ...

        def has_room(self) -> bool:
            """Whether more than credits and replies should be queued now."""
            ...


class OutputStream:
    """From a descriptor (owned; a pipe or a terminal) to the host."""

    def __init__(self, loop: Loop, number: int, fd: int) -> None:
        self.number = number
        self._loop = loop
        self._fd: int | None = fd
        self._account = SendAccount()
        self._retained = bytearray()  # from account.consumed on
        self._end_told = False
        self._sink: Sink | None = None
        os.set_blocking(fd, False)
        loop.watch(fd, READ, self._on_readable)

    def describe(self) -> dict[str, Value]:
        """For HELLO: ``consumed`` is the least offset at which a session can start."""
        return {
            "stream": self.number,
            "direction": "output",
            "consumed": self._account.consumed,
            "available": self._account.consumed + len(self._retained),
            "ended": self._fd is None,
        }

    def attach(self, sink: Sink, window: int, offset: int | None) -> None:
        """Starts sending to a new session, from ``offset`` (None: from all that is kept). Raises ``ProtocolError``."""
        account = self._account
        account.window = window
        start = account.consumed if offset is None else offset
        if not 0 <= start - account.consumed <= len(self._retained):
            kept = f"{account.consumed} to {account.consumed + len(self._retained)}"
            raise ProtocolError(f"stream {self.number} cannot start at {start}: kept is {kept}")
        del self._retained[: start - account.consumed]
        account.consumed = account.sent = start
        self._end_told = False
        self._sink = sink
        self._watch()

    def detach(self) -> None:
        """The session is over; reads on until the window is full."""
        self._sink = None

    def credit(self, consumed: int) -> None:
        """The host has consumed so many bytes in all. Raises ``ProtocolError``."""
        del self._retained[: self._account.credit(consumed)]
        self._watch()
        self.pump()

    def pump(self) -> bool:
        """Sends one frame if there is something to send and room for it; says whether it did."""
        sink, account = self._sink, self._account
        if sink is None or not sink.has_room():
            return False
        start = account.sent - account.consumed
        if start < len(self._retained):
            with memoryview(self._retained) as retained:
                piece = bytes(retained[start : start + MAX_PAYLOAD])
            account.sent += len(piece)
            sink.send(encode_frame(self.number, DATA, piece))
            return True
        if self._fd is None and not self._end_told:
            self._end_told = True
            sink.send(encode_offset(self.number, END, account.sent))
        return False

    def reset(self) -> None:
        """The host wants no more: what is kept is dropped, and the workload's writes fail from now on."""
        self._retained.clear()
        self._account.consumed = self._account.sent
        self.close()
        self.pump()

    def close(self) -> None:
        """Stops reading; what was read is still sent."""
        if self._fd is not None:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = None

    def _on_readable(self, _events: int) -> None:
        assert self._fd is not None
        # As much as there is, within the window: each time that the loop comes round costs more than to read.
        while (room := self._room()) > 0:
            try:
                data = os.read(self._fd, min(MAX_PAYLOAD, room))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EIO:  # a terminal whose other side is closed
                    raise
                data = b""
            if not data:
                self.close()
                break
            self._retained += data
        self._watch()
        self.pump()

    def _room(self) -> int:
        return self._account.room() - (len(self._retained) - (self._account.sent - self._account.consumed))

    def _watch(self) -> None:
        if self._fd is not None:
            self._loop.watch(self._fd, READ if self._room() > 0 else 0, self._on_readable)


class InputStream:
    """From the host to a descriptor (owned; a pipe or a terminal)."""

    def __init__(self, loop: Loop, number: int, fd: int, *, terminal: bool) -> None:
        self.number = number
        self._loop = loop
        self._fd: int | None = fd
        self._terminal = terminal
        self._account = ReceiveAccount()
        self._buffer = bytearray()
        self._sink: Sink | None = None
        os.set_blocking(fd, False)

    def describe(self) -> dict[str, Value]:
        """For HELLO: a session goes on at ``received``."""
        return {
            "stream": self.number,
            "direction": "input",
            "consumed": self._account.consumed,
            "received": self._account.received,
            "ended": self._account.ended or self._fd is None,
        }

    def attach(self, sink: Sink, window: int) -> None:
        """Takes from a new session, which knows from HELLO what was received and consumed."""
        self._account.window = window
        self._account.told = self._account.consumed
        self._sink = sink

    def detach(self) -> None:
        """The session is over; the workload waits for more."""
        self._sink = None

    def data(self, payload: bytes) -> None:
        """Bytes for the workload. Raises ``ProtocolError``."""
        if self._fd is None:
            return  # the host has not seen our RESET yet
        self._account.data(len(payload))
        self._buffer += payload
        self._write(0)

    def end(self, total: int) -> None:
        """No more comes after ``total`` bytes. A terminal stays open. Raises ``ProtocolError``."""
        if self._fd is None:
            return
        self._account.end(total)
        self._write(0)

    def close(self, reason: int = 0) -> None:
        """Closes the descriptor; with a ``reason`` (errno) tells the host that no more can be written."""
        if self._fd is None:
            return
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = None
        self._buffer.clear()
        if reason and self._sink:
            self._sink.send(encode_reset(self.number, reason))

    def _write(self, _events: int) -> None:
        assert self._fd is not None
        while self._buffer:
            try:
                written = os.write(self._fd, self._buffer[:MAX_PAYLOAD])
            except BlockingIOError:
                break
            except OSError as error:  # EPIPE of a pipe, EIO of a terminal: nobody reads any more
                self.close(error.errno or errno.EIO)
                return
            del self._buffer[:written]
            credit = self._account.consume(written)
            if credit is not None and self._sink:
                self._sink.send(encode_offset(self.number, CREDIT, credit))
        self._loop.watch(self._fd, WRITE if self._buffer else 0, self._write)
        if self._account.ended and not self._buffer and not self._terminal:
            self.close()
