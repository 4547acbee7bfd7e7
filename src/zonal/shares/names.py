"""Requests that make, move and remove what a folder has in it, and Treadlink."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Final

from zonal.shares import wire
from zonal.shares.client import Client
from zonal.shares.contents import OPEN_FLAGS, io_unit
from zonal.shares.fids import File
from zonal.shares.files import step
from zonal.shares.wire import Fields, Type

_ONE = struct.Struct("<7xI")
_TWO, _THREE, _FOUR = struct.Struct("<II"), struct.Struct("<III"), struct.Struct("<IIII")
_REMOVE_FOLDER = 0x200  # AT_REMOVEDIR, linux/fcntl.h


def create(client: Client, message: bytes) -> bytes:
    """Tlcreate: makes a file, and opens it by the folder's fid."""
    fields = Fields(message)
    number, name = fields.number(), fields.name()
    flags, mode, gid = fields.take(_THREE)
    fields.end()
    share, fid = client.share, client.fids.unopened(number)
    client.begin_change_of(fid, name)
    folder = fid.at.descriptor
    kept = flags & OPEN_FLAGS | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        file = os.open(name, kept | os.O_CREAT | os.O_EXCL, mode & 0o7777, dir_fd=folder)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        file = os.open(name, kept, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise
    else:
        client.own(file, fid.uid, gid, mode)
    try:
        at = step(folder, name)
    except BaseException:
        os.close(file)
        raise
    status = os.fstat(file)
    fid.at.let_go()
    fid.at, fid.file = File(at, (status.st_dev, status.st_ino)), file
    return share.qid(status) + io_unit(client)


def symlink(client: Client, message: bytes) -> bytes:
    """Tsymlink."""
    fields = Fields(message)
    number, name, target, gid = fields.number(), fields.name(), fields.text(), fields.number()
    fields.end()
    fid = client.fids.get(number)
    client.begin_change_of(fid, name)
    os.symlink(target, name, dir_fd=fid.at.descriptor)
    return client.made(fid, name, gid)


def make_node(client: Client, message: bytes) -> bytes:
    """Tmknod."""
    fields = Fields(message)
    number, name = fields.number(), fields.name()
    mode, _, _, gid = fields.take(_FOUR)
    fields.end()
    fid = client.fids.get(number)
    client.begin_change_of(fid, name)
    if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
        # A zone's root must not make what opens the host's devices to the host's users.
        raise OSError(errno.EPERM, "devices are not made")
    os.mknod(name, mode & (0o7777 | stat.S_IFMT(mode)), dir_fd=fid.at.descriptor)
    return client.made(fid, name, gid)


def make_folder(client: Client, message: bytes) -> bytes:
    """Tmkdir."""
    fields = Fields(message)
    number, name = fields.number(), fields.name()
    mode, gid = fields.take(_TWO)
    fields.end()
    fid = client.fids.get(number)
    client.begin_change_of(fid, name)
    os.mkdir(name, mode & 0o1777, dir_fd=fid.at.descriptor)
    return client.made(fid, name, gid)


def read_link(client: Client, message: bytes) -> bytes:
    """Treadlink."""
    (number,) = _ONE.unpack(message)
    return wire.text(os.readlink(b"", dir_fd=client.fids.get(number).at.descriptor))


def link(client: Client, message: bytes) -> bytes:
    """Tlink."""
    fields = Fields(message)
    folder, number, name = fields.number(), fields.number(), fields.name()
    fields.end()
    fid, target = client.fids.get(folder), client.fids.get(number)
    client.begin_change_of(fid, name)
    client.opened.link(target.at.descriptor, fid.at.descriptor, name)
    return b""


def rename(client: Client, message: bytes) -> bytes:
    """Trenameat."""
    fields = Fields(message)
    number, name = fields.number(), fields.name()
    new_number, new_name = fields.number(), fields.name()
    fields.end()
    old, new = client.fids.get(number), client.fids.get(new_number)
    client.begin_change_of(old, name)
    client.begin_change_of(new, new_name)
    os.rename(name, new_name, src_dir_fd=old.at.descriptor, dst_dir_fd=new.at.descriptor)
    return b""


def unlink(client: Client, message: bytes) -> bytes:
    """Tunlinkat."""
    fields = Fields(message)
    number, name, flags = fields.number(), fields.name(), fields.number()
    fields.end()
    fid = client.fids.get(number)
    client.begin_change_of(fid, name)
    if flags & _REMOVE_FOLDER:
        os.rmdir(name, dir_fd=fid.at.descriptor)
    else:
        os.unlink(name, dir_fd=fid.at.descriptor)
    return b""


HANDLERS: Final = {
    Type.LCREATE: create,
    Type.SYMLINK: symlink,
    Type.MKNOD: make_node,
    Type.MKDIR: make_folder,
    Type.READLINK: read_link,
    Type.LINK: link,
    Type.RENAMEAT: rename,
    Type.UNLINKAT: unlink,
}
