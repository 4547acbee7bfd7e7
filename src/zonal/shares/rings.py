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
_SMALL = 512
"""Bytes of a request that are copied in one go."""
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
            while answered < most and self._answer(session):
                answered += 1
                untold += 1
                if untold == _TOGETHER:
                    fence()
                    ports.notify(self.port)
                    untold = 0
        except RingCorruptError as error:
            raise RingBrokenError(str(error)) from None
        if untold:
            fence()
            ports.notify(self.port)
        return answered

    def _answer(self, session: Session) -> bool:
        """Answers one request; false when it has to wait for the zone."""
        if self._reply:
            return self._send()
        reader = self._reader
        ready = reader.available()
        if ready < wire.HEADER.size:
            return False
        message = reader.peek(min(ready, _SMALL))
        size, type_, tag = wire.HEADER.unpack_from(message)
        if not wire.HEADER.size <= size <= min(session.client.message_size, reader.size):
            raise RingBrokenError(f"a request of {size} bytes")
        if ready < size:
            return False
        if type_ == _WRITE and size > _SMALL and session.is_open(message):
            self._reply = session.write_from(
                message[:WRITE_HEADER], reader.pieces(WRITE_HEADER, size - WRITE_HEADER), size - WRITE_HEADER
            )
        elif type_ == _READ and size == READ_SIZE and session.is_open(message):
            return self._read(session, message[:size])
        else:
            whole = message[:size] if size <= len(message) else reader.peek(size)
            self._reply = session.answer(type_, tag, whole)
        reader.skip(size)
        return self._send()

    def _read(self, session: Session, message: bytes) -> bool:
        writer = self._writer
        room = min(READ_HEADER + wanted(message), session.message_size)
        if writer.space() < max(room, READ_HEADER):  # as many as a failure takes
            return False
        self._reader.skip(len(message))
        head, count = session.read_into(message, lambda most: writer.pieces(READ_HEADER, most))
        writer.fill(head)
        writer.advance(len(head) + count)
        return True

    def _send(self) -> bool:
        if self._writer.space() < len(self._reply):
            return False
        self._writer.fill(self._reply)
        self._writer.advance(len(self._reply))
        self._reply = b""
        return True

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
