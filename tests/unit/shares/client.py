"""A 9P2000.L client that sends what it is told to, right or wrong."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from zonal.shares.files import Opened, Share
from zonal.shares.session import Session
from zonal.shares.wire import HEADER, NO_FID, Type

GETATTR = struct.Struct("<Q13sIII15Q")


@dataclass(frozen=True)
class Attributes:
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int


class Client:
    """Fid 0 is the root; every method raises the server's ``OSError``."""

    def __init__(self, folder: Path, *, read_only: bool = False, only: bytes | None = None, uid: int = 0) -> None:
        self.share = Share(os.open(folder, os.O_PATH | os.O_DIRECTORY), read_only, only)
        self.session = Session(lambda _: self.share, Opened(), 65536)
        assert self.call(Type.VERSION, struct.pack("<I", 65536), text(b"9P2000.L"))[4:] == text(b"9P2000.L")
        self.call(Type.ATTACH, struct.pack("<II", 0, NO_FID), text(b""), text(b""), struct.pack("<I", uid))
        self._next = 0

    def call(self, type_: int, *parts: bytes) -> bytes:
        body = b"".join(parts)
        message = HEADER.pack(HEADER.size + len(body), type_, 7) + body
        reply = self.session.handle(message)
        size, answered, tag = HEADER.unpack_from(reply)
        assert (size, tag) == (len(reply), 7)
        if answered == Type.LERROR + 1:
            (number,) = struct.unpack_from("<I", reply, HEADER.size)
            raise OSError(number, os.strerror(number))
        assert answered == type_ + 1
        return reply[HEADER.size :]

    def walk(self, *names: bytes, start: int = 0) -> int:
        """A new fid."""
        self._next += 1
        parts = (text(name) for name in names)
        reply = self.call(Type.WALK, struct.pack("<IIH", start, self._next, len(names)), *parts)
        if struct.unpack_from("<H", reply)[0] != len(names):
            raise FileNotFoundError(names)
        return self._next

    def clunk(self, fid: int) -> None:
        self.call(Type.CLUNK, struct.pack("<I", fid))

    def open(self, *names: bytes, flags: int = os.O_RDONLY) -> int:
        fid = self.walk(*names)
        self.call(Type.LOPEN, struct.pack("<II", fid, flags))
        return fid

    def create(self, name: bytes, *, flags: int = os.O_RDWR, mode: int = 0o644, gid: int = 0, folder: int = 0) -> int:
        fid = self.walk(start=folder)
        self.call(Type.LCREATE, struct.pack("<I", fid), text(name), struct.pack("<III", flags, mode, gid))
        return fid

    def write(self, fid: int, data: bytes, offset: int = 0) -> int:
        return number(self.call(Type.WRITE, struct.pack("<IQI", fid, offset, len(data)), data))

    def read(self, fid: int, count: int = 60000, offset: int = 0) -> bytes:
        reply = self.call(Type.READ, struct.pack("<IQI", fid, offset, count))
        assert number(reply) == len(reply) - 4
        return reply[4:]

    def attributes(self, fid: int) -> Attributes:
        values = GETATTR.unpack(self.call(Type.GETATTR, struct.pack("<IQ", fid, 0x7FF)))
        _, _, mode, uid, gid, _, _, size, _, _, _, _, seconds, nanoseconds, *_ = values
        return Attributes(mode, uid, gid, size, seconds * 1_000_000_000 + nanoseconds)

    def set_attributes(
        self,
        fid: int,
        valid: int,
        *,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        atime: tuple[int, int] = (0, 0),
        mtime: tuple[int, int] = (0, 0),
    ) -> None:
        self.call(Type.SETATTR, struct.pack("<IIIIIQQQQQ", fid, valid, mode, uid, gid, size, *atime, *mtime))

    def list(self, *names: bytes, count: int = 60000) -> list[bytes]:
        fid = self.open(*names, flags=os.O_RDONLY | os.O_DIRECTORY)
        found: list[bytes] = []
        offset = 0
        while data := self.call(Type.READDIR, struct.pack("<IQI", fid, offset, count))[4:]:
            while data:
                _, offset, _, length = struct.unpack_from("<13sQBH", data)
                found.append(data[24 : 24 + length])
                data = data[24 + length :]
        self.clunk(fid)
        return found

    def named(self, type_: int, folder: int, name: bytes, *rest: bytes) -> bytes:
        """Requests of the form fid, name, and more."""
        return self.call(type_, struct.pack("<I", folder), text(name), *rest)


def text(data: bytes) -> bytes:
    return struct.pack("<H", len(data)) + data


def number(data: bytes) -> int:
    return struct.unpack_from("<I", data)[0]
