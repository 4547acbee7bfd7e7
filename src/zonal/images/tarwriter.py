"""Write tar headers: plain ustar where everything fits, and a PAX header before it for what does not."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Final

from zonal.images import tarformat as tar
from zonal.images.tarformat import BLOCK, Member, padded

END: Final = bytes(2 * BLOCK)
"""What closes an archive."""

_NAME_SIZE: Final = 100
_OCTAL_7: Final = 0o7777777
_OCTAL_11: Final = 0o77777777777


def header(member: Member, name: bytes) -> bytes:
    """Every header block of ``member`` under ``name``, ready for its content to follow.

    Only fields that mkfs.erofs and GNU tar read alike are used; owners are numbers, never names.
    """
    pax: list[tuple[bytes, bytes]] = []
    if member.kind == tar.DIRECTORY:
        name += b"/"
    if len(name) > _NAME_SIZE:
        pax.append((b"path", name))
    if len(member.link) > _NAME_SIZE:
        pax.append((b"linkpath", member.link))
    if member.mtime_ns:
        pax.append((b"mtime", b"%d.%09d" % (member.mtime, member.mtime_ns)))
    elif member.mtime > _OCTAL_11:
        pax.append((b"mtime", b"%d" % member.mtime))
    for key, value in ((b"uid", member.uid), (b"gid", member.gid)):
        if value > _OCTAL_7:
            pax.append((key, b"%d" % value))
    if member.size > _OCTAL_11:
        pax.append((b"size", b"%d" % member.size))
    for attribute, value in (member.xattrs or {}).items():
        pax.append((b"SCHILY.xattr." + attribute, value))
    block = _block(member, name)
    if not pax:
        return block
    records = b"".join(_record(key, value) for key, value in pax)
    extension = _block(_EXTENSION, b"PaxHeaders/0", size=len(records))
    return extension + records.ljust(padded(len(records)), b"\0") + block


def hard_link(name: bytes, target: bytes) -> bytes:
    """Every header block of a hard link to a member that was written before."""
    return header(dataclasses.replace(_EXTENSION, kind=tar.HARD_LINK, link=target), name)


def file(name: bytes, size: int) -> bytes:
    """Every header block of a plain file of root's, mode 0644, of the year 1970."""
    return header(dataclasses.replace(_EXTENSION, kind=tar.REGULAR, size=size), name)


def directory(mtime: int) -> Member:
    """A directory that no archive describes: root's own, mode 0755."""
    return dataclasses.replace(_EXTENSION, kind=tar.DIRECTORY, mode=0o755, mtime=mtime)


_EXTENSION: Final = Member(
    b"", tar.PAX_MEMBER, 0o644, 0, 0, 0, 0, 0, b"", 0, 0, None, None, start=0, data=0, end=0, verbatim=False
)


def _block(member: Member, name: bytes, *, size: int | None = None) -> bytes:
    size = member.size if size is None else size
    block = tar.HEADER.pack(
        name[:_NAME_SIZE],
        b"%07o" % member.mode,
        b"%07o" % min(member.uid, _OCTAL_7),
        b"%07o" % min(member.gid, _OCTAL_7),
        b"%011o" % min(size, _OCTAL_11),
        b"%011o" % min(member.mtime, _OCTAL_11),
        b" " * 8,
        member.kind,
        member.link[:_NAME_SIZE],
        *tar.USTAR,
        b"",
        b"",
        b"%07o" % member.major,
        b"%07o" % member.minor,
        b"",
        b"",
    )
    # The low half of adler32 is one more than the sum of the bytes, which cannot pass 65521 in a header of these
    # fields' making but for names of high bytes; then the sum is made the slow way.
    total = sum(block) if max(block) > 0x7E else (zlib.adler32(block) & 0xFFFF) - 1
    return block[:148] + b"%06o\0 " % total + block[156:]


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, LENGTH counting its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)
