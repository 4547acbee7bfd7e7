"""The layout of a tar header and the members read from one: POSIX.1-2017 ``pax``, "ustar Interchange Format".

GNU's own additions (long names, base-256 numbers, old sparse files) follow ``src/tar.h`` and the manual of GNU tar.
Names are bytes throughout: a file's name in Linux is any bytes but NUL and the slash.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from zonal.errors import InvalidInputError

BLOCK: Final = 512
"""Bytes of a header, and the unit that content is padded to."""

HEADER: Final = struct.Struct("100s8s8s8s12s12s8ss100s6s2s32s32s8s8s155s12s")
"""name, mode, uid, gid, size, mtime, checksum, kind, link, magic, version, uname, gname, major, minor, prefix, rest."""

CHECKSUM: Final = slice(148, 156)
SPARSE: Final = struct.Struct("12s12s")
"""One piece in a GNU sparse header: offset and length, as numbers of 12 bytes."""

REGULAR: Final = b"0"
HARD_LINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER_DEVICE: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
CONTIGUOUS: Final = b"7"
OLD_REGULAR: Final = b"\0"
GNU_SPARSE: Final = b"S"
GNU_LONG_NAME: Final = b"L"
GNU_LONG_LINK: Final = b"K"
PAX_MEMBER: Final = b"x"
PAX_GLOBAL: Final = b"g"

HEADER_ONLY: Final = frozenset({HARD_LINK, SYMLINK, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO})
"""Kinds without content, whatever their size field says (as GNU tar, bsdtar and Go read them)."""

USTAR: Final = (b"ustar\0", b"00")
GNU: Final = (b"ustar ", b" \0")

ID_LIMIT: Final = (1 << 32) - 1
"""Owners are below this: (uid_t) -1 means "no change" to the kernel."""
MAJOR_LIMIT: Final = 1 << 12
MINOR_LIMIT: Final = 1 << 20
"""Bits of a device number: MINORBITS of linux/kdev_t.h."""


@dataclass(slots=True)
class Member:
    """One member of an archive, its extended headers taken in."""

    name: bytes
    kind: bytes
    """One of ``REGULAR`` to ``FIFO``; what has sparse content is ``REGULAR`` too."""
    mode: int
    """Permission bits, with set-id and sticky bits; no type."""
    uid: int
    gid: int
    size: int
    """Bytes of content, holes included."""
    mtime: int
    """Seconds since the epoch; never negative."""
    mtime_ns: int
    link: bytes
    """Target, of a hard or symbolic link."""
    major: int
    minor: int
    xattrs: dict[bytes, bytes] | None
    sparse: list[tuple[int, int]] | None
    """Offset and length of each stored piece of a sparse file, ascending; what lies between is zeros."""
    data: int
    """Offset of the stored content in the archive's file."""


@dataclass(frozen=True, slots=True)
class Source:
    """An uncompressed tar: a range of an open file."""

    fd: int
    offset: int
    size: int
    label: str
    """What to call it in an error."""


def show(name: bytes) -> str:
    """A name for people: valid UTF-8 as it is, other bytes and control characters escaped, cut if very long."""
    text = name.decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= 200 else f"{text[:200]}…"


def refuse(label: str, name: bytes, why: str, hint: str | None = None) -> InvalidInputError:
    """The error for a member that an image cannot have."""
    return InvalidInputError(f"{label}: member {show(name)!r}: {why}", hint=hint)


def padded(size: int) -> int:
    """``size`` rounded up to whole blocks."""
    return (size + BLOCK - 1) & -BLOCK
