"""Requests about what is in a file or folder: Tlopen, Tread, Twrite, Treaddir, Tfsync, Tlock, Tgetlock.

Reading and writing come in a second form each, for memory that is shared with the client: nothing is copied but by the
kernel, between the file and that memory.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Sequence
from typing import Final

from zonal.shares import locks, wire
from zonal.shares.client import Client
from zonal.shares.fids import XattrWrite
from zonal.shares.files import Listing, Opened, offset
from zonal.shares.wire import Fields, Type, WireError

OPEN_FLAGS: Final = os.O_ACCMODE | os.O_TRUNC | os.O_APPEND | os.O_DSYNC | os.O_SYNC | os.O_DIRECTORY | os.O_NOATIME
READ_HEADER: Final = wire.HEADER.size + 4
"""Bytes in Rread before the data."""
READ_SIZE: Final = wire.HEADER.size + 16
"""Bytes of Tread."""
WRITE_HEADER: Final = wire.HEADER.size + 16
"""Bytes in Twrite before the data."""
_OPEN = struct.Struct("<7xII")
_READ = struct.Struct("<7xIQI")
_WRITE = struct.Struct("<IQI")
_ENTRY = struct.Struct("<13sQB")
_U32 = struct.Struct("<I")

Place = Callable[[int], Sequence[memoryview]]
"""Memory for so many bytes of data, in pieces."""


def open_(client: Client, message: bytes) -> bytes:
    """Tlopen."""
    number, flags = _OPEN.unpack(message)
    share, fid = client.share, client.fids.unopened(number)
    flags &= OPEN_FLAGS
    if flags & (os.O_ACCMODE | os.O_TRUNC):
        client.begin_change()
    mode = os.fstat(fid.at.descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.ENXIO, "pipes, sockets and devices are not passed on")
    fid.file = _reopen(client.opened, fid.at.descriptor, flags)
    if stat.S_ISDIR(mode):
        fid.listing = Listing(fid.file, share, fid.at.at_root)
    return share.qid(os.fstat(fid.file)) + io_unit(client)


def io_unit(client: Client) -> bytes:
    """How many bytes the client is to ask for at once: whole pages, and a MiB in as few requests as it takes."""
    requests = -(-(1 << 20) // (client.message_size - wire.IO_HEADER))
    pages = -(-(1 << 20) // requests >> 12)
    return _U32.pack(pages << 12 if pages << 12 <= client.message_size - wire.IO_HEADER else 0)


def read(client: Client, message: bytes) -> bytes:
    """Tread."""
    number, at, count = _READ.unpack(message)
    fid = client.fids.get(number)
    count = min(count, client.message_size - READ_HEADER)
    value = fid.xattr
    data = value[at : at + count] if isinstance(value, bytes) else os.pread(fid.opened, count, offset(at))
    return _U32.pack(len(data)) + data


def read_into(client: Client, message: bytes, place: Place) -> int:
    """Tread of a file, to where ``place`` says; how many bytes there were."""
    number, at, count = _READ.unpack(message)
    file = client.fids.get(number).opened
    count = min(count, client.message_size - READ_HEADER)
    return os.preadv(file, place(count), offset(at)) if count else 0


def wanted(message: bytes) -> int:
    """The most bytes of data in the reply to a Tread."""
    return _READ.unpack(message)[2]


def is_open(client: Client, message: bytes) -> bool:
    """Whether a request is about a file that is open, and no extended attribute."""
    fid = client.fids.by_number.get(int.from_bytes(message[7:11], "little"))
    return fid is not None and fid.file >= 0


def write(client: Client, message: bytes) -> bytes:
    """Twrite."""
    fields = Fields(message)
    number, at, count = fields.take(_WRITE)
    data = fields.data(count, client.message_size)
    fields.end()
    fid = client.fids.get(number)
    client.begin_change()
    if isinstance(fid.xattr, XattrWrite):
        if at != len(fid.xattr.value) or at + count > fid.xattr.size:
            raise OSError(errno.EINVAL, "an extended attribute is written from its beginning to its end")
        fid.xattr.value += data
        return _U32.pack(count)
    return _U32.pack(os.pwrite(fid.opened, data, offset(at)))


def write_from(client: Client, head: bytes, data: Sequence[memoryview], length: int) -> bytes:
    """Twrite to a file, whose data of ``length`` bytes is elsewhere than its ``head`` of `WRITE_HEADER` bytes."""
    number, at, count = _WRITE.unpack_from(head, wire.HEADER.size)
    if count != length:
        raise WireError("a request with too much or too little in it")
    file = client.fids.get(number).opened
    client.begin_change()
    return _U32.pack(os.pwritev(file, data, offset(at)))


def list_(client: Client, message: bytes) -> bytes:
    """Treaddir."""
    number, after, count = _READ.unpack(message)
    listing = client.fids.get(number).listing
    if listing is None:
        raise OSError(errno.EBADF, "not an open folder")
    room = min(count, client.message_size - READ_HEADER)
    listing.seek(after)
    entries: list[bytes] = []
    while (entry := listing.take()) is not None:
        name, qid, type_ = entry
        room -= _ENTRY.size + 2 + len(name)
        if room < 0:
            listing.give_back(entry)
            break
        entries.append(_ENTRY.pack(qid, listing.offset, type_) + wire.text(name))
    data = b"".join(entries)
    return _U32.pack(len(data)) + data


def sync(client: Client, message: bytes) -> bytes:
    """Tfsync."""
    number, data_only = _OPEN.unpack(message)
    file = client.fids.get(number).opened
    if data_only:
        os.fdatasync(file)
    else:
        os.fsync(file)
    return b""


def lock(client: Client, message: bytes) -> bytes:
    """Tlock."""
    fields = Fields(message)
    number = fields.number()
    request = locks.take_request(fields)
    fields.end()
    return bytes([locks.lock(client.fids.get(number).opened, request)])


def find_lock(client: Client, message: bytes) -> bytes:
    """Tgetlock."""
    fields = Fields(message)
    number = fields.number()
    question = locks.take_question(fields)
    fields.end()
    return locks.find(client.fids.get(number).opened, question)


def _reopen(opened: Opened, descriptor: int, flags: int) -> int:
    try:
        return opened.reopen(descriptor, flags | os.O_NONBLOCK)
    except PermissionError:
        if not flags & os.O_NOATIME:
            raise
        return opened.reopen(descriptor, flags & ~os.O_NOATIME | os.O_NONBLOCK)


HANDLERS: Final = {
    Type.LOPEN: open_,
    Type.READ: read,
    Type.WRITE: write,
    Type.READDIR: list_,
    Type.FSYNC: sync,
    Type.LOCK: lock,
    Type.GETLOCK: find_lock,
}
