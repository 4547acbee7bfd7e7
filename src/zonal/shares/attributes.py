"""Requests about a file's attributes: Tgetattr and Tsetattr."""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import suppress
from typing import Final

from zonal.shares.client import Client
from zonal.shares.fids import Fid
from zonal.shares.files import UTIME_NOW, UTIME_OMIT, change_owner, change_times, offset
from zonal.shares.wire import Type

FRESH: Final = 0.02
"""Seconds after a walk in which the client's question that belongs to it gets what the walk has seen."""
_GETATTR = struct.Struct("<7xIQ")
_SETATTR = struct.Struct("<7xIIIIIQQQQQ")
_ATTRIBUTES = struct.Struct("<Q13sIII5Q6q4Q")
"""Linux, ``struct p9_stat_dotl``: times are seconds and nanoseconds."""
_SECOND = 1_000_000_000
_BASIC = 0x7FF  # P9_STATS_BASIC
_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME, _CTIME, _ATIME_SET, _MTIME_SET = (1 << bit for bit in range(9))


def get(client: Client, message: bytes) -> bytes:
    """Tgetattr.

    Linux's client always asks for a file's attributes right after it has walked to it, for the same call of its user's,
    and then gets what was seen on the way: once, and as long as the client has changed nothing.
    """
    number, _ = _GETATTR.unpack(message)
    fid = client.fids.get(number)
    seen, fid.seen = fid.seen, None
    if seen is not None and seen[1] == client.changes and client.now - seen[2] < FRESH:
        at = seen[0]
    else:
        at = os.fstat(fid.at.descriptor)
    atime, mtime, ctime = at.st_atime_ns, at.st_mtime_ns, at.st_ctime_ns
    return _ATTRIBUTES.pack(
        _BASIC,
        client.share.qid(at),
        at.st_mode,
        at.st_uid,
        at.st_gid,
        at.st_nlink,
        at.st_rdev,
        at.st_size,
        at.st_blksize,
        at.st_blocks,
        atime // _SECOND,
        atime % _SECOND,
        mtime // _SECOND,
        mtime % _SECOND,
        ctime // _SECOND,
        ctime % _SECOND,
        0,
        0,
        0,
        0,
    )


def set_(client: Client, message: bytes) -> bytes:
    """Tsetattr."""
    number, valid, mode, uid, gid, size, *times = _SETATTR.unpack(message)
    fid = client.fids.get(number)
    share = client.begin_change()
    if fid.at.at_root and share.only is not None:
        raise OSError(errno.EPERM, "only one file is shared")
    at = fid.at.descriptor
    if valid & (_UID | _GID):
        change_owner(at, uid if valid & _UID else -1, gid if valid & _GID else -1)
    if valid & _MODE:
        client.opened.change_mode(at, mode & 0o7777)
    if valid & _SIZE:
        _truncate(client, fid, offset(size))
    if valid & (_ATIME | _MTIME):
        change_times(
            at,
            _time(valid & _ATIME, valid & _ATIME_SET, times[0], times[1]),
            _time(valid & _MTIME, valid & _MTIME_SET, times[2], times[3]),
        )
    return b""


def _truncate(client: Client, fid: Fid, size: int) -> None:
    with suppress(OSError):
        if fid.file >= 0:
            os.ftruncate(fid.file, size)
            return
    if not stat.S_ISREG(os.fstat(fid.at.descriptor).st_mode):
        raise OSError(errno.EINVAL, "only regular files have a length")
    file = client.opened.reopen(fid.at.descriptor, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.ftruncate(file, size)
    finally:
        os.close(file)


def _time(change: int, given: int, seconds: int, nanoseconds: int) -> tuple[int, int]:
    if not change:
        return 0, UTIME_OMIT
    if not given:
        return 0, UTIME_NOW
    if nanoseconds >= _SECOND:
        raise OSError(errno.EINVAL, "a second has fewer nanoseconds")
    return seconds - (1 << 64) if seconds >> 63 else seconds, nanoseconds


HANDLERS: Final = {Type.GETATTR: get, Type.SETATTR: set_}
