"""A zone's end of a 9pfs ring, in memory of this process: right, or as wrong as a test wants it."""

from __future__ import annotations

import os
from pathlib import Path

from zonal.shares.files import Opened, Share
from zonal.shares.pages import Pages
from zonal.shares.ports import Ports
from zonal.shares.rings import Ring
from zonal.shares.session import Session
from zonal.shares.wire import HEADER
from zonal.xen.abi import p9
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.ring import RingReader, RingWriter


class Told(Ports):
    """Counts the events that a zone would get."""

    def __init__(self) -> None:
        super().__init__(-1, [])
        self.count = 0

    def notify(self, port: int) -> None:
        self.count += 1


class ZoneEnd:
    """One ring, and the server that answers in it. ``half`` is the size of each of its ways, in bytes."""

    def __init__(self, folder: Path, *, half: int = 16384, message_size: int = 8192) -> None:
        memory = os.memfd_create("ring")
        os.truncate(memory, PAGE_SIZE + 2 * half)
        self.memory = memory
        self.ring = Ring(memory, 0, PAGE_SIZE, 2 * half, 1)
        self._pages = [Pages(memory, 0, PAGE_SIZE), Pages(memory, PAGE_SIZE, 2 * half)]
        self.indices = self._pages[0].buffer.cast("I")
        self.data = self._pages[1].buffer
        self._out = RingWriter(self.data[half:], self.indices, prod=p9.OUT_PROD, cons=p9.OUT_CONS, name="out")
        self._in = RingReader(self.data[:half], self.indices, prod=p9.IN_PROD, cons=p9.IN_CONS, name="in")
        share = Share(os.open(folder, os.O_PATH | os.O_DIRECTORY))
        self.session = Session(lambda _: share, Opened(), message_size)
        self.told = Told()

    def put(self, message: bytes) -> None:
        """Into the ring, whatever it is."""
        assert self._out.write(memoryview(message)) == len(message)

    def request(self, type_: int, *parts: bytes) -> None:
        """A whole one, with the type for a tag."""
        body = b"".join(parts)
        self.put(HEADER.pack(HEADER.size + len(body), type_, type_) + body)

    def serve(self, most: int = 64) -> int:
        return self.ring.serve(self.session, self.told, most)

    def take(self) -> bytes | None:
        """The next reply, without its size."""
        if not self._in.available():
            return None
        size = int.from_bytes(self._in.read(4), "little")
        reply = self._in.read(size - 4)
        assert len(reply) == size - 4
        return reply

    def ask(self, type_: int, *parts: bytes) -> bytes:
        """A request's reply, behind its header."""
        self.request(type_, *parts)
        assert self.serve() == 1
        reply = self.take()
        assert reply is not None
        assert (reply[0], int.from_bytes(reply[1:3], "little")) == (type_ + 1, type_), reply
        return reply[3:]
