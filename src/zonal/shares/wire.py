"""Messages of 9P2000.L: ``size[4] type[1] tag[2]`` and then fields, little-endian, strings with a 16-bit length.

Numbers and layouts: Linux, ``include/net/9p/9p.h``, and the protocol's description in diod's ``protocol.md``. What
comes from a client is hostile: a message that is not exactly what its type says is refused with `WireError`.
"""

from __future__ import annotations

import enum
import struct

HEADER = struct.Struct("<IBH")
"""size, with these four bytes; type; tag"""
QID = struct.Struct("<BIQ")
"""type, version, path"""
IO_HEADER = 24
"""Bytes of a message that Linux's client keeps free beside what is read or written (P9_IOHDRSZ)."""
NO_FID = 0xFFFF_FFFF
NO_UID = 0xFFFF_FFFF
MAX_NAME = 255
"""Bytes in one name: Linux, NAME_MAX."""
MAX_TEXT = 4096
"""Bytes in any string: Linux, PATH_MAX."""
MAX_WALK = 16
"""Names in one Twalk (P9_MAXWELEM)."""

QT_DIR, QT_SYMLINK, QT_FILE = 0x80, 0x02, 0x00


class Type(enum.IntEnum):
    """Requests; a reply has the number after its request's."""

    LERROR = 6  # its reply, 7, is every request's that failed
    STATFS = 8
    LOPEN = 12
    LCREATE = 14
    SYMLINK = 16
    MKNOD = 18
    RENAME = 20
    READLINK = 22
    GETATTR = 24
    SETATTR = 26
    XATTRWALK = 30
    XATTRCREATE = 32
    READDIR = 40
    FSYNC = 50
    LOCK = 52
    GETLOCK = 54
    LINK = 70
    MKDIR = 72
    RENAMEAT = 74
    UNLINKAT = 76
    VERSION = 100
    AUTH = 102
    ATTACH = 104
    FLUSH = 108
    WALK = 110
    READ = 116
    WRITE = 118
    CLUNK = 120
    REMOVE = 122


class WireError(Exception):
    """A message that does not hold what its type says."""


class Fields:
    """The fields of one request, taken in their order."""

    __slots__ = ("_at", "_data")

    def __init__(self, message: bytes) -> None:
        self._data = message
        self._at = HEADER.size

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        """Numbers."""
        at = self._at
        self._at = at + layout.size
        try:
            return layout.unpack_from(self._data, at)
        except struct.error:
            raise WireError("a request is too short") from None

    def number(self) -> int:
        """One of 32 bits."""
        return self.take(_U32)[0]

    def text(self, most: int = MAX_TEXT) -> bytes:
        """A string."""
        (length,) = self.take(_U16)
        return self.data(length, most)

    def name(self) -> bytes:
        """A string that can be the name of a file in a folder."""
        return _checked(self.text(MAX_NAME))

    def names(self, count: int) -> list[bytes]:
        """So many names, and nothing after them."""
        data, end = self._data, self._at
        names: list[bytes] = []
        for _ in range(count):
            at = end + 2
            end = at + int.from_bytes(data[end:at], "little")
            names.append(_checked(data[at:end]))
        self._at = end
        self.end()
        return names

    def data(self, length: int, most: int) -> bytes:
        """So many bytes."""
        data = self._data[self._at : self._at + length]
        self._at += length
        if length > most or len(data) != length:
            raise WireError(f"a request with a field of {length} bytes")
        return data

    def end(self) -> None:
        """Raises `WireError` when something is left."""
        if self._at != len(self._data):
            raise WireError("a request is too long")


def _checked(name: bytes) -> bytes:
    if not 0 < len(name) <= MAX_NAME or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise WireError("a request has no proper name in it")
    return name


_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")


def text(data: bytes) -> bytes:
    """A string as replies have it."""
    return _U16.pack(len(data)) + data


def reply(type_: int, tag: int, *parts: bytes) -> bytes:
    """A whole message."""
    size = HEADER.size + sum(map(len, parts))
    return b"".join((HEADER.pack(size, type_, tag), *parts))


def failure(tag: int, number: int) -> bytes:
    """Rlerror with an errno."""
    return reply(Type.LERROR + 1, tag, _U32.pack(number))
