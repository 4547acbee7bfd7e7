"""A session over the rings of a 9pfs device (``zonal.xen.abi.p9``), in memory that the zone may write at any time.

Requests are copied before they are looked at, one after the other, but for what is to be written to files; that goes
from the ring into the file, and what is read goes from the file into the ring, each by one system call.

The driver raises an event after it has written a request or taken a reply.
"""

from __future__ import annotations

import time

from zonal.shares import wire
from zonal.shares.contents import READ_HEADER, READ_SIZE, WRITE_HEADER, wanted
from zonal.shares.pages import Pages
from zonal.shares.ports import Ports
from zonal.shares.session import Session
from zonal.shares.wire import Type
from zonal.xen.abi import p9
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.ring import RingCorruptError, RingReader, RingWriter, fence

_READ, _WRITE = int(Type.READ), int(Type.WRITE)
_SMALL = 1024
"""Bytes of requests, and about as many of replies, that are copied in one go."""
_TOGETHER = 8
"""Replies that the zone is told of by one event at most, so that it can begin with the first ones."""


class RingBrokenError(Exception):
    """The zone breaks the protocol of its rings; they are served no longer."""


class Ring:
    """One ring: its requests are answered by a session that several rings may share."""

    def __init__(self, grants: int, control: int, data: int, data_bytes: int, port: int) -> None:
        """``grants`` is the device's descriptor, in which pages were prepared at these offsets. Raises ``OSError``."""
        self.port = port
        self._control = Pages(grants, control, PAGE_SIZE)
        self._data = Pages(grants, data, data_bytes)
        half = data_bytes // 2
        indices = self._control.buffer.cast("I")
        replies, requests = self._data.buffer[:half], self._data.buffer[half:]
        self._views = [indices, replies, requests]
        self._writer = RingWriter(replies, indices, prod=p9.IN_PROD, cons=p9.IN_CONS, name="of replies")
        self._reader = RingReader(requests, indices, prod=p9.OUT_PROD, cons=p9.OUT_CONS, name="of requests")
        self._reply = b""

    def serve(self, session: Session, ports: Ports, most: int) -> int:
        """Answers at most ``most`` requests; how many they were.

        Raises `RingBrokenError`; this ring is of no use then.
        """
        session.look_at_clock(time.monotonic())
        answered = untold = 0
        try:
            while answered < most and (count := self._answer(session, min(most - answered, _TOGETHER))):
                answered += count
                untold += count
                if untold >= _TOGETHER:
                    self._tell(ports)
                    untold = 0
        except RingCorruptError as error:
            raise RingBrokenError(str(error)) from None
        if untold:
            self._tell(ports)
        return answered

    def _answer(self, session: Session, most: int) -> int:
        """Answers some requests; 0 when it has to wait for the zone."""
        if self._reply:
            return self._send()
        reader = self._reader
        ready = reader.available()
        if ready < wire.HEADER.size:
            return 0
        data = reader.peek(min(ready, _SMALL))
        limit = min(session.client.message_size, reader.size)
        replies: list[bytes] = []
        at = size = type_ = tag = length = 0
        # One copy of what is there, and one of all its answers.
        while len(data) - at >= wire.HEADER.size and len(replies) < most and length < _SMALL:
            size, type_, tag = wire.HEADER.unpack_from(data, at)
            if type_ == _READ or at + size > len(data) or size < wire.HEADER.size:
                break
            replies.append(session.answer(type_, tag, data[at : at + size]))
            length += len(replies[-1])
            at += size
        if replies:
            reader.skip(at)
            self._reply = replies[0] if len(replies) == 1 else b"".join(replies)
            self._send()
            return len(replies)
        if not wire.HEADER.size <= size <= limit:
            raise RingBrokenError(f"a request of {size} bytes")
        return self._answer_large(session, size, type_, tag) if size <= ready else 0

    def _answer_large(self, session: Session, size: int, type_: int, tag: int) -> int:
        """Answers one request, of which so much is known, and which is not small or has a reply that is not."""
        reader, writer = self._reader, self._writer
        if type_ == _WRITE and session.is_open(head := reader.peek(WRITE_HEADER)):
            length = size - WRITE_HEADER
            self._reply = session.write_from(head, reader.pieces(WRITE_HEADER, length), length)
            reader.skip(size)
            return self._send()
        message = reader.peek(size)
        if type_ != _READ or size != READ_SIZE or not session.is_open(message):
            reader.skip(size)
            self._reply = session.answer(type_, tag, message)
            return self._send()
        room = min(READ_HEADER + wanted(message), session.message_size)
        if writer.space() < max(room, READ_HEADER):  # as many as a failure takes
            return 0
        reader.skip(size)
        head, count = session.read_into(message, lambda most: writer.pieces(READ_HEADER, most))
        writer.fill(head)
        writer.advance(len(head) + count)
        return 1

    def _send(self) -> int:
        """Publishes what was answered; 0 when there is no room for it yet."""
        if self._writer.space() < len(self._reply):
            return 0
        self._writer.fill(self._reply)
        self._writer.advance(len(self._reply))
        self._reply = b""
        return 1

    def _tell(self, ports: Ports) -> None:
        fence()
        ports.notify(self.port)

    @property
    def is_asked(self) -> bool:
        """Whether a request may be there."""
        try:
            return self._reader.available() >= wire.HEADER.size
        except RingCorruptError:
            return True  # which is to be found out by serving

    def close(self) -> None:
        """Gives the pages up. May be called again."""
        for view in self._views:
            view.release()
        self._views.clear()
        self._control.close()
        self._data.close()
