"""Read the members of a tar archive, hostile or not, without reading their content.

Python's own ``tarfile`` is lenient where two readers could disagree (broken numbers, checksums, sparse maps). What is
read here becomes a filesystem, so anything doubtful is refused.
"""

from __future__ import annotations

import base64
import binascii
import os
import zlib
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

from zonal.errors import InvalidInputError
from zonal.images import tarformat as tar
from zonal.images.limits import DEFAULT, Limits
from zonal.images.tarformat import BLOCK, Member, Source, padded, refuse

_WINDOW: Final = 16 << 10
"""Bytes read at once: headers of small files lie close together."""

_ZEROS: Final = bytes(BLOCK)

_KINDS: Final = frozenset(
    {
        tar.REGULAR, tar.HARD_LINK, tar.SYMLINK, tar.CHARACTER_DEVICE, tar.BLOCK_DEVICE, tar.DIRECTORY, tar.FIFO,
        tar.CONTIGUOUS, tar.OLD_REGULAR, tar.GNU_SPARSE,
    }
)  # fmt: skip

_XATTR_NAMESPACES: Final = (b"user.", b"security.", b"trusted.", b"system.posix_acl_")
_XATTR_DROPPED: Final = (b"trusted.overlay.", b"user.overlay.")
"""Overlayfs reads these from its lower layer: an image must not be able to redirect it."""


def read_members(source: Source, limits: Limits = DEFAULT, *, need_end: bool = False) -> Iterator[Member]:
    """Every member in order.

    With ``need_end`` an archive must close with a block of zeros, without which one that was cut between two members
    looks whole; where a digest covers the archive that is not needed.

    Raises:
        InvalidInputError: not a tar, truncated, past a limit, or with a header that cannot be trusted.
    """
    return _Reader(source, limits, need_end).members()


class _Reader:
    def __init__(self, source: Source, limits: Limits, need_end: bool) -> None:
        self._fd = source.fd
        self._label = source.label
        self._limits = limits
        self._need_end = need_end
        self._position = source.offset
        self._limit = source.offset + source.size
        self._window = b""
        self._window_start = 0
        self._globals: dict[bytes, bytes] = {}
        self._count = 0
        self._is_tar = False

    def members(self) -> Iterator[Member]:
        while True:
            start = self._position
            block = self._next_block()
            if block is None:
                return
            kind = block[156:157]
            if kind in _KINDS:
                yield self._member(block, {}, None, None)
            else:
                member = self._extended(start, block)
                if member is None:
                    return
                yield member
            self._count += 1
            if self._count > self._limits.entries:
                raise InvalidInputError(f"{self._label} has more than {self._limits.entries} members")

    def _extended(self, start: int, block: bytes) -> Member | None:
        """The member that one or more extended headers precede; None where only global headers are left."""
        pax: dict[bytes, bytes] = {}
        long_name: bytes | None = None
        long_link: bytes | None = None
        while (kind := block[156:157]) not in _KINDS:
            if kind == tar.PAX_MEMBER:
                pax.update(self._pax_records(self._extension(start, block)))
            elif kind == tar.PAX_GLOBAL:
                self._globals.update(self._pax_records(self._extension(start, block)))
            elif kind == tar.GNU_LONG_NAME:
                long_name = self._extension(start, block).partition(b"\0")[0]
            elif kind == tar.GNU_LONG_LINK:
                long_link = self._extension(start, block).partition(b"\0")[0]
            else:
                name = block[:100].partition(b"\0")[0]
                raise refuse(self._label, name, f"its type {kind.decode('latin-1')!r} is none that an image can have")
            following = self._next_block()
            if following is None:
                if pax or long_name is not None or long_link is not None:
                    raise self._truncated()
                return None
            block = following
        return self._member(block, pax, long_name, long_link)

    def _next_block(self) -> bytes | None:
        """The next header, its checksum verified; None at the archive's end."""
        if self._position >= self._limit:
            if self._need_end:
                raise self._truncated()
            return None
        block = self._read(self._position, BLOCK)
        if block == _ZEROS:
            return None
        # adler32's low half is one more than the sum of the bytes, modulo 65521: the header's sum at the speed of C.
        field = block[tar.CHECKSUM]
        stated = self._number(field)
        total = stated - 8 * 0x20 + sum(field)
        if (zlib.adler32(block) & 0xFFFF) != (total + 1) % 65521:
            raise self._corrupt("a header's checksum is wrong")
        self._is_tar = True
        self._position += BLOCK
        return block

    def _extension(self, start: int, block: bytes) -> bytes:
        """Content of an extended header; the position moves past it."""
        size = self._number(block[124:136])
        if size > self._limits.extension_bytes or self._position - start > self._limits.extension_bytes:
            raise InvalidInputError(
                f"{self._label}: an extended header is larger than {self._limits.extension_bytes} bytes"
            )
        content = self._read(self._position, size)
        self._position += padded(size)
        return content

    def _pax_records(self, content: bytes) -> dict[bytes, bytes]:
        """``LENGTH KEY=VALUE\\n`` each, LENGTH counting all of it."""
        records: dict[bytes, bytes] = {}
        names: list[bytes] = []
        position = 0
        # Writers pad the last block with NULs that the size should not count, but some count them.
        content = content.rstrip(b"\0")
        while position < len(content):
            space = content.find(b" ", position, position + 20)
            digits = content[position:space] if space > 0 else b""
            if not digits.isdigit() or not space < position + int(digits) <= len(content):
                raise self._corrupt("an extended header is malformed")
            end = position + int(digits)
            key, equals, value = content[space + 1 : end - 1].partition(b"=")
            if not equals or not key or content[end - 1 : end] != b"\n":
                raise self._corrupt("an extended header is malformed")
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                # Version 0.0 repeats these two for every piece of a sparse file; put together they are version 0.1.
                names.append(value)
            else:
                records[key] = value
            position = end
        if names:
            records[b"GNU.sparse.map"] = b",".join(names)
        return records

    def _member(
        self, block: bytes, pax: dict[bytes, bytes], long_name: bytes | None, long_link: bytes | None
    ) -> Member:
        (
            name, mode_, uid_, gid_, size_, mtime_, _, kind, link, magic, version, _, _, major_, minor_, prefix, _,
        ) = tar.HEADER.unpack(block)  # fmt: skip
        name = name.partition(b"\0")[0]
        link = link.partition(b"\0")[0]
        prefix = prefix.partition(b"\0")[0]
        if (magic, version) == tar.USTAR and prefix:
            name = prefix + b"/" + name
        name = name if long_name is None else long_name
        link = link if long_link is None else long_link
        mode, uid, gid = self._number(mode_), self._number(uid_), self._number(gid_)
        size, mtime, mtime_ns = self._number(size_), self._number(mtime_, signed=True), 0
        xattrs: dict[bytes, bytes] | None = None
        pieces: list[tuple[int, int]] | None = None
        if kind == tar.OLD_REGULAR:
            kind = tar.DIRECTORY if name.endswith(b"/") else tar.REGULAR
        elif kind == tar.CONTIGUOUS:
            kind = tar.REGULAR
        if self._globals:
            pax = {**self._globals, **pax}
        if pax:
            name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or name
            link = pax.get(b"linkpath") or link
            uid = self._decimal(pax, b"uid", uid)
            gid = self._decimal(pax, b"gid", gid)
            size = self._decimal(pax, b"size", size)
            mtime, mtime_ns = self._time(pax, mtime)
            xattrs = self._xattrs(name, pax)
        if b"\0" in name or b"\0" in link:
            raise refuse(self._label, name, "a name with a NUL in it cannot exist")
        if uid >= tar.ID_LIMIT or gid >= tar.ID_LIMIT:
            raise refuse(self._label, name, f"its owner {uid}:{gid} is not one that Linux has")
        major = minor = 0
        if kind in (tar.CHARACTER_DEVICE, tar.BLOCK_DEVICE):
            major, minor = self._number(major_), self._number(minor_)
            if major >= tar.MAJOR_LIMIT or minor >= tar.MINOR_LIMIT:
                raise refuse(self._label, name, f"its device number {major}:{minor} is not one that Linux has")
        elif kind == tar.SYMLINK and not link:
            raise refuse(self._label, name, "a symbolic link without a target")
        if kind in tar.HEADER_ONLY:
            size = 0
        real_size = size
        if kind == tar.GNU_SPARSE:
            kind = tar.REGULAR
            real_size, pieces = self._gnu_sparse(name, block)
        data = self._position
        end = data + padded(size)
        if end > self._limit and data + size > self._limit:
            raise self._truncated()
        if pax and kind == tar.REGULAR and (b"GNU.sparse.map" in pax or b"GNU.sparse.major" in pax):
            real_size, pieces, data = self._pax_sparse(name, pax, data, size)
        if pieces is not None:
            stored = size - (data - self._position)
            self._check_pieces(name, pieces, real_size, stored)
        self._position = end
        if mtime < 0:
            mtime = mtime_ns = 0
        return Member(
            name, kind, mode & 0o7777, uid, gid, real_size, mtime, mtime_ns, link, major, minor, xattrs, pieces, data,
        )  # fmt: skip

    def _xattrs(self, name: bytes, pax: dict[bytes, bytes]) -> dict[bytes, bytes] | None:
        """Attributes as GNU tar and star write them (``SCHILY.xattr.``), and as bsdtar does (``LIBARCHIVE.xattr.``)."""
        found: dict[bytes, bytes] = {}
        for key, value in pax.items():
            if key.startswith(b"SCHILY.xattr."):
                found[key[13:]] = value
            elif key.startswith(b"LIBARCHIVE.xattr."):
                attribute = unquote_to_bytes(key[17:])
                if attribute not in found:
                    try:
                        found[attribute] = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
                    except binascii.Error as error:
                        raise refuse(self._label, name, f"its attribute {attribute!r} is malformed") from error
        kept = {
            attribute: value
            for attribute, value in found.items()
            if attribute.startswith(_XATTR_NAMESPACES) and not attribute.startswith(_XATTR_DROPPED)
        }
        if any(b"\0" in attribute or b"=" in attribute or len(attribute) > 255 for attribute in kept):
            raise refuse(self._label, name, "an extended attribute's name is malformed")
        if sum(len(attribute) + len(value) for attribute, value in kept.items()) > self._limits.xattr_bytes:
            raise refuse(self._label, name, f"its attributes take more than {self._limits.xattr_bytes} bytes")
        return kept or None

    def _gnu_sparse(self, name: bytes, block: bytes) -> tuple[int, list[tuple[int, int]]]:
        """GNU's old form: four pieces in the header, 21 in each block that follows it while a flag says so."""
        pieces: list[tuple[int, int]] = []
        self._add_pieces(pieces, block[386:482])
        real_size = self._number(block[483:495])
        more = block[482]
        while more:
            block = self._read(self._position, BLOCK)
            self._position += BLOCK
            self._add_pieces(pieces, block[:504])
            more = block[504]
            if len(pieces) > self._limits.entries:
                raise refuse(self._label, name, "its map of holes is endless")
        return real_size, pieces

    def _add_pieces(self, pieces: list[tuple[int, int]], fields: bytes) -> None:
        for offset, length in tar.SPARSE.iter_unpack(fields):
            if offset[0] == 0:
                return
            pieces.append((self._number(offset), self._number(length)))

    def _pax_sparse(
        self, name: bytes, pax: dict[bytes, bytes], data: int, size: int
    ) -> tuple[int, list[tuple[int, int]], int]:
        """GNU's sparse formats 0.0 and 0.1 (the map in the header) and 1.0 (the map before the content)."""
        if b"GNU.sparse.map" in pax:
            fields = pax[b"GNU.sparse.map"].split(b",") if pax[b"GNU.sparse.map"] else []
            real_size = self._decimal(pax, b"GNU.sparse.size", -1)
        elif pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
            real_size = self._decimal(pax, b"GNU.sparse.realsize", -1)
            fields, data = self._leading_map(name, data, data + size)
        else:
            raise refuse(self._label, name, "its sparse format is unknown")
        if real_size < 0 or len(fields) % 2 or not all(f.isdigit() and len(f) < 20 for f in fields):
            raise refuse(self._label, name, "its map of holes is malformed")
        numbers = [int(field) for field in fields]
        return real_size, list(zip(numbers[::2], numbers[1::2], strict=True)), data

    def _leading_map(self, name: bytes, data: int, end: int) -> tuple[list[bytes], int]:
        """Format 1.0: decimal numbers, one a line, the count of pieces first, padded to whole blocks."""
        text = b""
        wanted: int | None = None
        while wanted is None or text.count(b"\n") < wanted:
            if data + BLOCK > end or len(text) > self._limits.extension_bytes:
                raise refuse(self._label, name, "its map of holes is malformed")
            text += self._read(data, BLOCK)
            data += BLOCK
            if wanted is None:
                count, newline, _ = text.partition(b"\n")
                if not newline or not count.isdigit() or len(count) > 8:
                    raise refuse(self._label, name, "its map of holes is malformed")
                wanted = 1 + 2 * int(count)
        return text.split(b"\n")[1:wanted], data

    def _check_pieces(self, name: bytes, pieces: list[tuple[int, int]], real_size: int, stored: int) -> None:
        position = 0
        for offset, length in pieces:
            if offset < position:
                raise refuse(self._label, name, "its map of holes is out of order")
            position = offset + length
        if position > real_size or sum(length for _, length in pieces) != stored:
            raise refuse(self._label, name, "its map of holes does not fit its size")

    def _number(self, field: bytes, *, signed: bool = False) -> int:
        """A number in octal digits, or in GNU's base 256 (top bit set, big endian)."""
        digits = field.partition(b"\0")[0].strip(b" ")
        if digits.isdigit():
            try:
                return int(digits, 8)
            except ValueError as error:
                raise self._corrupt("a header has a malformed number") from error
        if not digits:
            return 0
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        if field[0] == 0xFF and signed:
            return int.from_bytes(field, "big", signed=True)
        raise self._corrupt("a header has a malformed number")

    def _decimal(self, pax: dict[bytes, bytes], key: bytes, default: int) -> int:
        value = pax.get(key, b"")
        if not value:
            return default
        if not value.isdigit() or len(value) > 19:
            raise self._corrupt(f"the extended header {key.decode()} is malformed")
        return int(value)

    def _time(self, pax: dict[bytes, bytes], default: int) -> tuple[int, int]:
        """Seconds and nanoseconds of a decimal fraction such as ``1700000000.25``."""
        value = pax.get(b"mtime", b"")
        if not value:
            return default, 0
        whole, _, fraction = value.removeprefix(b"-").partition(b".")
        if not whole.isdigit() or len(whole) > 14 or (fraction and not fraction.isdigit()):
            raise self._corrupt("the extended header mtime is malformed")
        if value.startswith(b"-"):
            return -1, 0
        return int(whole), int(fraction[:9].ljust(9, b"0"))

    def _read(self, offset: int, size: int) -> bytes:
        """``size`` bytes at ``offset`` of the file, which must lie within the archive."""
        begin = offset - self._window_start
        if begin < 0 or begin + size > len(self._window):
            if offset + size > self._limit:
                raise self._truncated()
            self._window = os.pread(self._fd, min(max(_WINDOW, size), self._limit - offset), offset)
            self._window_start = offset
            begin = 0
            if len(self._window) < size:
                raise self._truncated()
        return self._window[begin : begin + size]

    def _truncated(self) -> InvalidInputError:
        return InvalidInputError(f"{self._label} is truncated", hint="make or fetch the file again")

    def _corrupt(self, why: str) -> InvalidInputError:
        what = f"is corrupt: {why}" if self._is_tar else "is not a tar archive"
        return InvalidInputError(f"{self._label} {what}", hint="check that the file is whole and of the right kind")
