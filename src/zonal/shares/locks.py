"""Locks on byte ranges of files (Tlock, Tgetlock), as the host's own programs see them: fcntl(2), F_OFD_SETLK.

Locks between the processes of one zone are its kernel's business; these are for files that are shared further. A
lock that somebody else has is never waited for: the client asks again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from zonal.shares.wire import Fields, WireError, text

SUCCESS, BLOCKED, FAILED = 0, 1, 2
"""Rlock's status (P9_LOCK_SUCCESS …)."""
_KINDS = {0: fcntl.F_RDLCK, 1: fcntl.F_WRLCK, 2: fcntl.F_UNLCK}
_FLOCK = struct.Struct("=hhqqi4x")
"""``struct flock`` of x86-64: type, whence, start, length, process."""
_REQUEST = struct.Struct("<BIQQI")
_QUESTION = struct.Struct("<BQQI")
_MOST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Range:
    """What is to be locked: ``length`` 0 reaches to the end, whatever that will be."""

    kind: int
    start: int
    length: int
    process: int
    client: bytes


def take_request(fields: Fields) -> Range:
    """Of Tlock: type, flags, start, length, process, client."""
    kind, _, start, length, process = fields.take(_REQUEST)
    return _range(kind, start, length, process, fields.text())


def take_question(fields: Fields) -> Range:
    """Of Tgetlock."""
    kind, start, length, process = fields.take(_QUESTION)
    return _range(kind, start, length, process, fields.text())


def lock(file: int, wanted: Range) -> int:
    """Takes or gives up a lock that ends with the descriptor ``file``; Rlock's status."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _pack(wanted))
    except OSError as error:
        return BLOCKED if error.errno in (errno.EAGAIN, errno.EACCES) else FAILED
    return SUCCESS


def find(file: int, wanted: Range) -> bytes:
    """Rgetlock: the lock that is in the way, or the one that was asked for with the type of none."""
    if wanted.kind == fcntl.F_UNLCK:
        raise OSError(errno.EINVAL, "nothing stands in the way of no lock")
    answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _pack(wanted))
    kind, _, start, length, process = _FLOCK.unpack(answer)
    if kind == fcntl.F_UNLCK:
        start, length, process = wanted.start, wanted.length, wanted.process
    numbers = {value: number for number, value in _KINDS.items()}
    return _QUESTION.pack(numbers[kind], start, length, process & 0xFFFF_FFFF) + text(wanted.client)


def _range(kind: int, start: int, length: int, process: int, client: bytes) -> Range:
    if kind not in _KINDS or start > _MOST or length > _MOST:
        raise WireError("an impossible lock")
    return Range(_KINDS[kind], start, length, process, client)


def _pack(wanted: Range) -> bytes:
    return _FLOCK.pack(wanted.kind, os.SEEK_SET, wanted.start, wanted.length, 0)
