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
    encode_header,
    encode_offset,
    encode_reset,
)
from zonal.agent.protocol.streams import WINDOW, ReceiveAccount, SendAccount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from zonal.agent.loop import Loop
    from zonal.agent.protocol.cbor import Value

    class Sink(Protocol):
        """Where frames go: a session that is open."""

        def send(self, part: bytes | memoryview) -> None:
            """Queues a frame or the next part of one; the memory stays as it is until it was sent."""
            ...

        def has_room(self) -> bool:
            """Whether more than credits and replies should be queued now."""
            ...


class OutputStream:
    """From a descriptor (owned; a pipe or a terminal) to the host.

    What is kept lies in one buffer of a window's size, which is used round and round: memory that is asked for anew has
    to be mapped page by page, and where the hypervisor has a hand in that, it costs more than to copy the bytes.
    """

    def __init__(self, loop: Loop, number: int, fd: int) -> None:
        self.number = number
        self._loop = loop
        self._fd: int | None = fd
        self._account = SendAccount()
        self._buffer = memoryview(bytearray(WINDOW))  # untouched pages of it take no memory
        self._first = 0  # where in the buffer the byte at account.consumed is
        self._kept = 0  # bytes from there on
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
            "available": self._account.consumed + self._kept,
            "ended": self._fd is None,
        }

    def attach(self, sink: Sink, window: int, offset: int | None) -> None:
        """Starts sending to a new session, from ``offset`` (None: from all that is kept). Raises ``ProtocolError``."""
        account = self._account
        account.window = window
        start = account.consumed if offset is None else offset
        if not 0 <= start - account.consumed <= self._kept:
            kept = f"{account.consumed} to {account.consumed + self._kept}"
            raise ProtocolError(f"stream {self.number} cannot start at {start}: kept is {kept}")
        self._drop(start - account.consumed)
        account.consumed = account.sent = start
        self._end_told = False
        self._sink = sink
        self._watch()

    def detach(self) -> None:
        """The session is over; reads on until the window is full."""
        self._sink = None

    def credit(self, consumed: int) -> None:
        """The host has consumed so many bytes in all. Raises ``ProtocolError``."""
        self._drop(self._account.credit(consumed))
        self._watch()
        self.pump()

    def pump(self) -> bool:
        """Sends what there is to send, as far as there is room for it; says whether that was anything."""
        sink, account = self._sink, self._account
        if sink is None:
            return False
        before = account.sent
        while (left := account.consumed + self._kept - account.sent) and sink.has_room():
            start = (self._first + account.sent - account.consumed) % WINDOW
            piece = self._buffer[start : min(start + min(left, MAX_PAYLOAD), WINDOW)]
            account.sent += len(piece)
            # Nothing is read to where the piece lies until the host has consumed it.
            sink.send(encode_header(self.number, DATA, len(piece)))
            sink.send(piece)
        if self._fd is None and not left and not self._end_told and sink.has_room():
            self._end_told = True
            sink.send(encode_offset(self.number, END, account.sent))
        return account.sent > before

    def reset(self) -> None:
        """The host wants no more: what is kept is dropped, and the workload's writes fail from now on."""
        self.close()
        # What is on its way stays where it is, since nothing is read any more.
        self._drop(self._kept)
        self._account.consumed = self._account.sent
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
        while (room := self._account.window - self._kept) > 0:
            start = (self._first + self._kept) % WINDOW
            end = start + room
            places = [self._buffer[start:end], self._buffer[: max(0, end - WINDOW)]]
            try:
                count = os.readv(self._fd, places)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EIO:  # a terminal whose other side is closed
                    raise
                count = 0
            if not count:
                self.close()
                break
            self._kept += count
        self._watch()
        self.pump()

    def _drop(self, count: int) -> None:
        self._kept -= count
        # From the start again, when that is possible: little output needs few pages.
        self._first = (self._first + count) % WINDOW if self._kept else 0

    def _watch(self) -> None:
        if self._fd is not None:
            self._loop.watch(self._fd, READ if self._account.window > self._kept else 0, self._on_readable)


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
