"""Requests that begin and end what a client knows: Tversion, Tattach, Twalk, Tclunk, and what is about the share."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Final

from zonal.shares import wire, xattrs
from zonal.shares.client import Client
from zonal.shares.fids import Fid, File, XattrWrite
from zonal.shares.files import step
from zonal.shares.wire import Fields, Type, WireError

VERSION: Final = b"9P2000.L"
MIN_MESSAGE: Final = 4096
_MAGIC = 0x0102_1997  # V9FS_MAGIC, linux/magic.h

_ATTACH = struct.Struct("<II")
_FLUSH = struct.Struct("<7xH")
_WALK = struct.Struct("<IIH")
_ONE = struct.Struct("<7xI")
_STATFS = struct.Struct("<IIQQQQQQI")
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")


def version(client: Client, message: bytes) -> bytes:
    """Tversion: begins anew."""
    fields = Fields(message)
    size, wanted = fields.number(), fields.text()
    fields.end()
    if size < MIN_MESSAGE:
        raise WireError("the client's messages are too small")
    client.close()
    client.message_size = min(size, client.max_message)
    return _U32.pack(client.message_size) + wire.text(VERSION if wanted == VERSION else b"unknown")


def attach(client: Client, message: bytes) -> bytes:
    """Tattach: a fid for the share itself."""
    fields = Fields(message)
    number, authentication = fields.take(_ATTACH)
    fields.text()
    name, uid = fields.text(), fields.number()
    fields.end()
    if authentication != wire.NO_FID:
        raise OSError(errno.EOPNOTSUPP, "there is no authentication")
    if client.attached is None:
        client.attached = client.find(name)
    share = client.attached
    status = os.fstat(share.root)
    root = File(os.dup(share.root), (status.st_dev, status.st_ino), at_root=True)
    client.fids.put(number, Fid(root, 0 if uid == wire.NO_UID else uid))
    return share.qid(status)


def flush(_: Client, message: bytes) -> bytes:
    """Tflush: requests are answered in their order, so the one that is meant has been."""
    _FLUSH.unpack(message)
    return b""


def walk(client: Client, message: bytes) -> bytes:
    """Twalk: a fid for what the names lead to, one below the other; for the same file, with none."""
    fields = Fields(message)
    number, new, count = fields.take(_WALK)
    if count > wire.MAX_WALK:
        raise WireError("a walk of too many names")
    names = fields.names(count)
    share, fid = client.share, client.fids.get(number)
    if fid.xattr is not None:
        raise OSError(errno.EBADF, "the fid is in use")
    if new != number:
        client.fids.free(new)
    at, status = fid.at.use(), None
    qids: list[bytes] = []
    try:
        for name in names:
            client.admit(at, name)
            following, status = _follow(client, at, name)
            at.let_go()
            at = following
            qids.append(share.qid(status))
    except OSError:
        at.let_go()
        if not qids:
            raise
        return b"".join((_U16.pack(len(qids)), *qids))
    walked = Fid(at, fid.uid)
    if status is not None:
        walked.seen = status, client.changes, client.now
    client.fids.put(new, walked, instead_of=number)
    return b"".join((_U16.pack(count), *qids))


def clunk(client: Client, message: bytes) -> bytes:
    """Tclunk: gives a fid up."""
    (number,) = _ONE.unpack(message)
    fid = client.fids.get(number)
    try:
        if isinstance(fid.xattr, XattrWrite):
            xattrs.finish(client, fid, fid.xattr)
    finally:
        client.fids.drop(number)
    return b""


def remove(client: Client, message: bytes) -> bytes:
    """Tremove: gives the fid up, and removes nothing, which takes a folder; clients have Tunlinkat."""
    clunk(client, message)
    raise OSError(errno.EOPNOTSUPP, "Tremove")


def statfs(client: Client, message: bytes) -> bytes:
    """Tstatfs: of the file system that a file is in."""
    (number,) = _ONE.unpack(message)
    at = os.fstatvfs(client.fids.get(number).at.descriptor)
    free = (at.f_bfree, at.f_bavail, at.f_files, at.f_ffree)
    return _STATFS.pack(_MAGIC, at.f_frsize, at.f_blocks, *free, at.f_fsid & (1 << 64) - 1, at.f_namemax)


def _follow(client: Client, folder: File, name: bytes) -> tuple[File, os.stat_result]:
    """The entry of that name. One system call for a folder that was met before, which is what most steps lead to."""
    known = client.folders.find(folder, name)
    if known is not None:
        try:
            status = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
        except OSError:
            client.folders.forget(folder, name)
            raise
        if (status.st_dev, status.st_ino) == known.identity:
            return known.use(), status
        client.folders.forget(folder, name)
    descriptor = step(folder.descriptor, name)
    status = os.fstat(descriptor)
    file = File(descriptor, (status.st_dev, status.st_ino))
    if stat.S_ISDIR(status.st_mode) and client.share.is_own(status):
        client.folders.remember(folder, name, file)
    return file, status


HANDLERS: Final = {
    Type.VERSION: version,
    Type.ATTACH: attach,
    Type.FLUSH: flush,
    Type.WALK: walk,
    Type.CLUNK: clunk,
    Type.REMOVE: remove,
    Type.STATFS: statfs,
}
