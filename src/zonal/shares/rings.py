"""A session over the rings of a 9pfs device (``zonal.xen.abi.p9``), in memory that the zone may write at any time.

Requests are taken out whole, one after the other, and copied before they are looked at. The driver always raises an
event after it has written a request or taken a reply; so does this side.
"""

from __future__ import annotations

from zonal.shares import wire
from zonal.shares.pages import Pages
from zonal.shares.ports import Ports
from zonal.shares.session import Session
from zonal.xen.abi import p9
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.ring import RingCorruptError, RingReader, RingWriter, fence


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
        self._size = 0
        self._reply = b""

    def serve(self, session: Session, ports: Ports, most: int) -> bool:
        """Answers at most ``most`` requests; whether there may be more.

        Raises `RingBrokenError`; this ring is of no use then.
        """
        try:
            for _ in range(most):
                if not self._answer(session, ports):
                    return False
        except RingCorruptError as error:
            raise RingBrokenError(str(error)) from None
        return True

    def _answer(self, session: Session, ports: Ports) -> bool:
        """Takes one step; false when it has to wait for the zone."""
        if self._reply:
            if self._writer.space() < len(self._reply):
                return False
            self._writer.write(memoryview(self._reply))
            self._reply = b""
            fence()
            ports.notify(self.port)
        if not self._size:
            if self._reader.available() < wire.HEADER.size:
                return False
            # Only the length, so that the rest comes in one piece.
            self._size = int.from_bytes(self._reader.read(4), "little")
            if not wire.HEADER.size <= self._size <= min(session.message_size, self._reader.size):
                raise RingBrokenError(f"a request of {self._size} bytes")
        rest = self._size - 4
        if self._reader.available() < rest:
            return False
        message = self._size.to_bytes(4, "little") + self._reader.read(rest)
        self._size = 0
        self._reply = session.handle(message)
        return True

    def close(self) -> None:
        """Gives the pages up. May be called again."""
        for view in self._views:
            view.release()
        self._views.clear()
        self._control.close()
        self._data.close()
