"""Requests about extended attributes: Txattrwalk and Txattrcreate, and what Tclunk does after the latter."""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

from zonal.shares import wire
from zonal.shares.client import Client
from zonal.shares.fids import Fid, XattrWrite
from zonal.shares.wire import Fields, Type

_MAX_VALUE = 65536  # XATTR_SIZE_MAX, linux/limits.h
_PASS = (b"user.", b"security.capability")
"""Extended attributes that pass; others say something to the host's kernel alone."""
_FLAGS = os.XATTR_CREATE | os.XATTR_REPLACE
_TWO = struct.Struct("<II")
_SIZE = struct.Struct("<QI")
_U64 = struct.Struct("<Q")


def walk(client: Client, message: bytes) -> bytes:
    """Txattrwalk: a fid that reads as an attribute's value, or as the names of all of them."""
    fields = Fields(message)
    number, new = fields.take(_TWO)
    name = fields.text()
    fields.end()
    fid = client.fids.get(number)
    if new != number:
        client.fids.free(new)
    if name and not name.startswith(_PASS):
        raise OSError(errno.EOPNOTSUPP, "this attribute does not pass")
    file = client.opened.accessible(fid.at.descriptor)
    try:
        if name:
            value = os.getxattr(file, name)
        else:
            names = (os.fsencode(each) for each in os.listxattr(file))
            value = b"".join(each + b"\0" for each in names if each.startswith(_PASS))
    finally:
        os.close(file)
    walked = Fid(fid.at.use(), fid.uid)
    walked.xattr = value
    client.fids.put(new, walked, instead_of=number)
    return _U64.pack(len(value))


def create(client: Client, message: bytes) -> bytes:
    """Txattrcreate: what is written to the fid from now on becomes the attribute's value."""
    fields = Fields(message)
    number, name = fields.number(), fields.text(wire.MAX_NAME)
    size, flags = fields.take(_SIZE)
    fields.end()
    client.begin_change()
    fid = client.fids.unopened(number)
    if not name.startswith(_PASS) or b"\0" in name:
        raise OSError(errno.EOPNOTSUPP, "this attribute does not pass")
    if size > _MAX_VALUE:
        raise OSError(errno.E2BIG, "an extended attribute of too many bytes")
    fid.xattr = XattrWrite(name, size, flags & _FLAGS)
    return b""


def finish(client: Client, fid: Fid, wanted: XattrWrite) -> None:
    """Sets what was written."""
    client.begin_change()
    file = client.opened.accessible(fid.at.descriptor)
    try:
        # The client's way to remove one is to give it no value (Linux, fs/9p/xattr.c).
        if wanted.size == 0 and wanted.flags & os.XATTR_REPLACE:
            os.removexattr(file, wanted.name)
        elif len(wanted.value) == wanted.size:
            os.setxattr(file, wanted.name, bytes(wanted.value), wanted.flags)
        else:
            raise OSError(errno.EINVAL, "an extended attribute was not written to its end")
    finally:
        os.close(file)


HANDLERS: Final = {Type.XATTRWALK: walk, Type.XATTRCREATE: create}
