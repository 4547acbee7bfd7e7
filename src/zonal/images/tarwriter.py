"""Write the headers of plain files in a tar: ustar, and a PAX header before it for what does not fit."""

from __future__ import annotations

from typing import Final

from zonal.images import tarformat as tar
from zonal.images.tarformat import BLOCK, padded

END: Final = bytes(2 * BLOCK)
"""What closes an archive."""

_NAME_SIZE: Final = 100
_SIZE_LIMIT: Final = 0o77777777777


def file(name: bytes, size: int) -> bytes:
    """Every header block of a plain file of root's, mode 0644, of the year 1970, ready for its content to follow."""
    records = b""
    if len(name) > _NAME_SIZE:
        records += _record(b"path", name)
    if size > _SIZE_LIMIT:
        records += _record(b"size", b"%d" % size)
    block = _block(name, size, tar.REGULAR)
    if not records:
        return block
    return _block(b"PaxHeaders/0", len(records), tar.PAX_MEMBER) + records.ljust(padded(len(records)), b"\0") + block


def _block(name: bytes, size: int, kind: bytes) -> bytes:
    block = tar.HEADER.pack(
        name[:_NAME_SIZE],
        *(b"%07o" % 0o644, b"%07o" % 0, b"%07o" % 0),
        *(b"%011o" % min(size, _SIZE_LIMIT), b"%011o" % 0),
        b" " * 8,
        kind,
        b"",
        *tar.USTAR,
        *(b"", b"", b"%07o" % 0, b"%07o" % 0, b"", b""),
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, LENGTH counting its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)
