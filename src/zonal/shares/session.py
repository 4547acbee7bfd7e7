"""One client's session: its fids, and what each request of 9P2000.L does.

A file's owner and mode are kept as they are: the client's kernel checks its users' rights, as it does for a disk of its
own, and what a user makes belongs to that user, by number. The client is a whole zone, with a root of its own; so what
it may do is bounded by the share, not by users.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import struct
from collections.abc import Callable
from contextlib import suppress

from zonal.shares import locks, wire
from zonal.shares.files import (
    UTIME_NOW,
    UTIME_OMIT,
    Listing,
    Opened,
    Share,
    change_owner,
    change_times,
    step,
)
from zonal.shares.wire import Fields, Type, WireError

log = logging.getLogger(__name__)

VERSION = b"9P2000.L"
MIN_MESSAGE = 4096
MAX_FIDS = 65536
"""Files that a client may know of at once; each is a descriptor."""
READ_HEADER = wire.HEADER.size + 4
_MAGIC = 0x0102_1997  # V9FS_MAGIC, linux/magic.h
_BLOCK = 4096
_MAX_XATTR = 65536  # XATTR_SIZE_MAX, linux/limits.h

_ATTACH = struct.Struct("<II")
_TWO, _FOUR = struct.Struct("<II"), struct.Struct("<IIII")
_GETATTR = struct.Struct("<IQ")
_READ = struct.Struct("<IQI")
_SETATTR = struct.Struct("<IIIIIQQQQQ")
_ATTRIBUTES = struct.Struct("<Q13sIII15Q")
_STATFS = struct.Struct("<IIQQQQQQI")
_ENTRY = struct.Struct("<13sQB")
_U16, _U32, _U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
_XATTR_SIZE = struct.Struct("<QI")
_BASIC = 0x7FF  # P9_STATS_BASIC
_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME, _CTIME, _ATIME_SET, _MTIME_SET = (1 << bit for bit in range(9))
_OPEN_FLAGS = os.O_ACCMODE | os.O_TRUNC | os.O_APPEND | os.O_DSYNC | os.O_SYNC | os.O_DIRECTORY | os.O_NOATIME
_REMOVE_FOLDER = 0x200  # AT_REMOVEDIR, linux/fcntl.h
_XATTRS = (b"user.", b"security.capability")
"""Extended attributes that pass; others say something to the host's kernel alone."""
_XATTR_FLAGS = os.XATTR_CREATE | os.XATTR_REPLACE


class _Fid:
    __slots__ = ("at_root", "descriptor", "file", "listing", "uid", "xattr")

    def __init__(self, descriptor: int, uid: int, *, at_root: bool = False) -> None:
        self.descriptor = descriptor
        self.uid = uid
        self.at_root = at_root
        self.file = -1
        self.listing: Listing | None = None
        self.xattr: bytes | _XattrWrite | None = None

    def close(self) -> None:
        for descriptor in (self.descriptor, self.file):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self.file = -1


class _XattrWrite:
    """An extended attribute that is being written, and set when its fid is given up."""

    def __init__(self, name: bytes, size: int, flags: int) -> None:
        self.name = name
        self.size = size
        self.flags = flags
        self.value = bytearray()


class Session:
    """See the module. ``close`` gives up all that it holds."""

    def __init__(
        self, find: Callable[[bytes], Share], opened: Opened, max_message: int, *, keeps_owners: bool = True
    ) -> None:
        """``find`` gives the share of an attach name, or raises ``OSError``; ``max_message`` is in bytes.

        Without ``keeps_owners`` all that is made belongs to the user who runs this, for lack of the right to give away.
        """
        self._keeps_owners = keeps_owners
        self._find = find
        self._opened = opened
        self._max_message = max_message
        self.message_size = max_message
        """The most bytes that a message may have, as agreed upon."""
        self._fids: dict[int, _Fid] = {}
        self._share: Share | None = None
        self._handlers: dict[int, Callable[[Fields], tuple[bytes, ...]]] = {
            Type.VERSION: self._version,
            Type.ATTACH: self._attach,
            Type.FLUSH: self._flush,
            Type.WALK: self._walk,
            Type.CLUNK: self._clunk,
            Type.REMOVE: self._remove,
            Type.STATFS: self._statfs,
            Type.LOPEN: self._lopen,
            Type.LCREATE: self._lcreate,
            Type.SYMLINK: self._symlink,
            Type.MKNOD: self._mknod,
            Type.READLINK: self._readlink,
            Type.GETATTR: self._getattr,
            Type.SETATTR: self._setattr,
            Type.XATTRWALK: self._xattrwalk,
            Type.XATTRCREATE: self._xattrcreate,
            Type.READDIR: self._readdir,
            Type.FSYNC: self._fsync,
            Type.LOCK: self._lock,
            Type.GETLOCK: self._getlock,
            Type.LINK: self._link,
            Type.MKDIR: self._mkdir,
            Type.RENAMEAT: self._renameat,
            Type.UNLINKAT: self._unlinkat,
            Type.READ: self._read,
            Type.WRITE: self._write,
        }

    def handle(self, message: bytes) -> bytes:
        """The reply to a whole request. Never raises for what a client can send."""
        _, type_, tag = wire.HEADER.unpack_from(message)
        handler = self._handlers.get(type_)
        try:
            if handler is None:
                return wire.failure(tag, errno.EOPNOTSUPP)
            fields = Fields(message)
            return wire.reply(type_ + 1, tag, *handler(fields))
        except OSError as error:
            return wire.failure(tag, error.errno or errno.EIO)
        except WireError:
            return wire.failure(tag, errno.EINVAL)
        except Exception:
            log.exception("a request of type %d failed", type_)
            return wire.failure(tag, errno.EIO)

    def close(self) -> None:
        """Gives up every fid. May be called again."""
        for fid in self._fids.values():
            fid.close()
        self._fids.clear()

    def _version(self, fields: Fields) -> tuple[bytes, ...]:
        size, version = fields.number(), fields.text()
        fields.end()
        if size < MIN_MESSAGE:
            raise WireError("the client's messages are too small")
        self.close()
        self.message_size = min(size, self._max_message)
        return _U32.pack(self.message_size), wire.text(VERSION if version == VERSION else b"unknown")

    def _attach(self, fields: Fields) -> tuple[bytes, ...]:
        number, authentication = fields.take(_ATTACH)
        fields.text()
        name, uid = fields.text(), fields.number()
        fields.end()
        if authentication != wire.NO_FID:
            raise OSError(errno.EOPNOTSUPP, "there is no authentication")
        share = self._share or self._find(name)
        self._share = share
        fid = _Fid(os.dup(share.root), 0 if uid == wire.NO_UID else uid, at_root=True)
        self._add(number, fid)
        return (share.qid(os.fstat(fid.descriptor)),)

    def _flush(self, fields: Fields) -> tuple[bytes, ...]:
        fields.take(_U16)
        fields.end()
        return ()  # requests are answered in their order, so the one that is meant has been

    def _walk(self, fields: Fields) -> tuple[bytes, ...]:
        number, new = fields.take(_TWO)
        (count,) = fields.take(_U16)
        if count > wire.MAX_WALK:
            raise WireError("a walk of too many names")
        names = [fields.name() for _ in range(count)]
        fields.end()
        share, fid = self._mounted(), self._fid(number)
        if fid.xattr is not None or (new != number and new in self._fids):
            raise OSError(errno.EBADF, "the fid is in use")
        at, at_root = os.dup(fid.descriptor), fid.at_root
        qids: list[bytes] = []
        for name in names:
            try:
                self._admit(name, at_root=at_root)
                following = step(at, name)
            except OSError:
                os.close(at)
                if not qids:
                    raise
                return _U16.pack(len(qids)), *qids
            os.close(at)
            at, at_root = following, False
            qids.append(share.qid(os.fstat(at)))
        walked = _Fid(at, fid.uid, at_root=at_root)
        if new == number:
            fid.close()
            self._fids[number] = walked
        else:
            self._add(new, walked)
        return _U16.pack(len(qids)), *qids

    def _clunk(self, fields: Fields) -> tuple[bytes, ...]:
        number = fields.number()
        fields.end()
        fid = self._fid(number)
        try:
            if isinstance(fid.xattr, _XattrWrite):
                self._set_xattr(fid, fid.xattr)
        finally:
            del self._fids[number]
            fid.close()
        return ()

    def _remove(self, fields: Fields) -> tuple[bytes, ...]:
        # Only known by the folder, which the fid does not tell: clients have Tunlinkat.
        self._clunk(fields)
        raise OSError(errno.EOPNOTSUPP, "Tremove")

    def _statfs(self, fields: Fields) -> tuple[bytes, ...]:
        fid = self._fid(fields.number())
        fields.end()
        at = os.fstatvfs(fid.descriptor)
        free = (at.f_bfree, at.f_bavail, at.f_files, at.f_ffree)
        return (_STATFS.pack(_MAGIC, at.f_frsize, at.f_blocks, *free, at.f_fsid & (1 << 64) - 1, at.f_namemax),)

    def _lopen(self, fields: Fields) -> tuple[bytes, ...]:
        number, flags = fields.take(_TWO)
        fields.end()
        share, fid = self._mounted(), self._unopened(number)
        flags &= _OPEN_FLAGS
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self._writable()
        mode = os.fstat(fid.descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.ENXIO, "pipes, sockets and devices are not passed on")
        fid.file = self._reopen(fid.descriptor, flags)
        if stat.S_ISDIR(mode):
            fid.listing = Listing(fid.file, share, fid.at_root)
        return share.qid(os.fstat(fid.file)), _U32.pack(0)

    def _lcreate(self, fields: Fields) -> tuple[bytes, ...]:
        number, name = fields.number(), fields.name()
        flags, mode, gid = fields.take(struct.Struct("<III"))
        fields.end()
        share, fid = self._mounted(), self._unopened(number)
        self._changeable(fid, name)
        kept = flags & _OPEN_FLAGS | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            file = os.open(name, kept | os.O_CREAT | os.O_EXCL, mode & 0o7777, dir_fd=fid.descriptor)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            file = os.open(name, kept, dir_fd=fid.descriptor)
            if not stat.S_ISREG(os.fstat(file).st_mode):
                os.close(file)
                raise
        else:
            self._own(file, fid.uid, gid, mode)
        try:
            at = step(fid.descriptor, name)
        except BaseException:
            os.close(file)
            raise
        os.close(fid.descriptor)
        fid.descriptor, fid.file, fid.at_root = at, file, False
        return share.qid(os.fstat(file)), _U32.pack(0)

    def _symlink(self, fields: Fields) -> tuple[bytes, ...]:
        number, name, target, gid = fields.number(), fields.name(), fields.text(), fields.number()
        fields.end()
        fid = self._fid(number)
        self._changeable(fid, name)
        os.symlink(target, name, dir_fd=fid.descriptor)
        return (self._made(fid, name, gid),)

    def _mknod(self, fields: Fields) -> tuple[bytes, ...]:
        number, name = fields.number(), fields.name()
        mode, _, _, gid = fields.take(_FOUR)
        fields.end()
        fid = self._fid(number)
        self._changeable(fid, name)
        if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
            # A zone's root must not make what opens the host's devices to the host's users.
            raise OSError(errno.EPERM, "devices are not made")
        os.mknod(name, mode & (0o7777 | stat.S_IFMT(mode)), dir_fd=fid.descriptor)
        return (self._made(fid, name, gid),)

    def _mkdir(self, fields: Fields) -> tuple[bytes, ...]:
        number, name = fields.number(), fields.name()
        mode, gid = fields.take(_TWO)
        fields.end()
        fid = self._fid(number)
        self._changeable(fid, name)
        os.mkdir(name, mode & 0o1777, dir_fd=fid.descriptor)
        return (self._made(fid, name, gid),)

    def _readlink(self, fields: Fields) -> tuple[bytes, ...]:
        fid = self._fid(fields.number())
        fields.end()
        return (wire.text(os.readlink(b"", dir_fd=fid.descriptor)),)

    def _getattr(self, fields: Fields) -> tuple[bytes, ...]:
        number, _ = fields.take(_GETATTR)
        fields.end()
        fid = self._fid(number)
        at = os.fstat(fid.descriptor)
        times = (divmod(ns, 1_000_000_000) for ns in (at.st_atime_ns, at.st_mtime_ns, at.st_ctime_ns))
        return (
            _ATTRIBUTES.pack(
                *(_BASIC, self._mounted().qid(at), at.st_mode, at.st_uid, at.st_gid),
                *(at.st_nlink, at.st_rdev, at.st_size, at.st_blksize, at.st_blocks),
                *(part for time in times for part in (time[0] & (1 << 64) - 1, time[1])),
                *(0, 0, 0, 0),
            ),
        )

    def _setattr(self, fields: Fields) -> tuple[bytes, ...]:
        number, valid, mode, uid, gid, size, *times = fields.take(_SETATTR)
        fields.end()
        fid = self._fid(number)
        self._writable()
        if fid.at_root and self._mounted().only is not None:
            raise OSError(errno.EPERM, "only one file is shared")
        at = fid.descriptor
        if valid & (_UID | _GID):
            change_owner(at, uid if valid & _UID else -1, gid if valid & _GID else -1)
        if valid & _MODE:
            self._opened.change_mode(at, mode & 0o7777)
        if valid & _SIZE:
            self._truncate(fid, size)
        if valid & (_ATIME | _MTIME):
            change_times(
                at,
                _time(valid & _ATIME, valid & _ATIME_SET, times[0], times[1]),
                _time(valid & _MTIME, valid & _MTIME_SET, times[2], times[3]),
            )
        return ()

    def _readdir(self, fields: Fields) -> tuple[bytes, ...]:
        number, offset, count = fields.take(_READ)
        fields.end()
        listing = self._fid(number).listing
        if listing is None:
            raise OSError(errno.EBADF, "not an open folder")
        room = min(count, self.message_size - READ_HEADER)
        listing.seek(offset)
        entries: list[bytes] = []
        while (entry := listing.take()) is not None:
            name, qid, type_ = entry
            room -= _ENTRY.size + 2 + len(name)
            if room < 0:
                listing.give_back(entry)
                break
            entries.append(_ENTRY.pack(qid, listing.offset, type_) + wire.text(name))
        data = b"".join(entries)
        return _U32.pack(len(data)), data

    def _read(self, fields: Fields) -> tuple[bytes, ...]:
        number, offset, count = fields.take(_READ)
        fields.end()
        fid = self._fid(number)
        count = min(count, self.message_size - READ_HEADER)
        if isinstance(fid.xattr, bytes):
            data = fid.xattr[offset : offset + count]
        else:
            data = os.pread(_file(fid), count, _offset(offset))
        return _U32.pack(len(data)), data

    def _write(self, fields: Fields) -> tuple[bytes, ...]:
        number, offset, count = fields.take(_READ)
        data = fields.data(count, self.message_size)
        fields.end()
        fid = self._fid(number)
        self._writable()
        if isinstance(fid.xattr, _XattrWrite):
            if offset != len(fid.xattr.value) or offset + count > fid.xattr.size:
                raise OSError(errno.EINVAL, "an extended attribute is written from its beginning to its end")
            fid.xattr.value += data
            return (_U32.pack(count),)
        return (_U32.pack(os.pwrite(_file(fid), data, _offset(offset))),)

    def _fsync(self, fields: Fields) -> tuple[bytes, ...]:
        number, data_only = fields.take(_TWO)
        fields.end()
        file = _file(self._fid(number))
        if data_only:
            os.fdatasync(file)
        else:
            os.fsync(file)
        return ()

    def _lock(self, fields: Fields) -> tuple[bytes, ...]:
        number = fields.number()
        wanted = locks.take_request(fields)
        fields.end()
        return (bytes([locks.lock(_file(self._fid(number)), wanted)]),)

    def _getlock(self, fields: Fields) -> tuple[bytes, ...]:
        number = fields.number()
        wanted = locks.take_question(fields)
        fields.end()
        return (locks.find(_file(self._fid(number)), wanted),)

    def _link(self, fields: Fields) -> tuple[bytes, ...]:
        folder, number, name = fields.number(), fields.number(), fields.name()
        fields.end()
        fid, target = self._fid(folder), self._fid(number)
        self._changeable(fid, name)
        self._opened.link(target.descriptor, fid.descriptor, name)
        return ()

    def _renameat(self, fields: Fields) -> tuple[bytes, ...]:
        number, name = fields.number(), fields.name()
        new_number, new_name = fields.number(), fields.name()
        fields.end()
        old, new = self._fid(number), self._fid(new_number)
        self._changeable(old, name)
        self._changeable(new, new_name)
        os.rename(name, new_name, src_dir_fd=old.descriptor, dst_dir_fd=new.descriptor)
        return ()

    def _unlinkat(self, fields: Fields) -> tuple[bytes, ...]:
        number, name, flags = fields.number(), fields.name(), fields.number()
        fields.end()
        fid = self._fid(number)
        self._changeable(fid, name)
        if flags & _REMOVE_FOLDER:
            os.rmdir(name, dir_fd=fid.descriptor)
        else:
            os.unlink(name, dir_fd=fid.descriptor)
        return ()

    def _xattrwalk(self, fields: Fields) -> tuple[bytes, ...]:
        number, new = fields.take(_TWO)
        name = fields.text()
        fields.end()
        fid = self._fid(number)
        if new != number and new in self._fids:
            raise OSError(errno.EBADF, "the fid is in use")
        if name and not name.startswith(_XATTRS):
            raise OSError(errno.EOPNOTSUPP, "this attribute does not pass")
        file = self._opened.accessible(fid.descriptor)
        try:
            if name:
                value = os.getxattr(file, name)
            else:
                names = (os.fsencode(each) for each in os.listxattr(file))
                value = b"".join(each + b"\0" for each in names if each.startswith(_XATTRS))
        finally:
            os.close(file)
        walked = _Fid(os.dup(fid.descriptor), fid.uid)
        walked.xattr = value
        if new == number:
            fid.close()
            self._fids[number] = walked
        else:
            self._add(new, walked)
        return (_U64.pack(len(value)),)

    def _xattrcreate(self, fields: Fields) -> tuple[bytes, ...]:
        number, name = fields.number(), fields.text(wire.MAX_NAME)
        size, flags = fields.take(_XATTR_SIZE)
        fields.end()
        self._writable()
        fid = self._unopened(number)
        if not name.startswith(_XATTRS) or b"\0" in name:
            raise OSError(errno.EOPNOTSUPP, "this attribute does not pass")
        if size > _MAX_XATTR:
            raise OSError(errno.E2BIG, "an extended attribute of too many bytes")
        fid.xattr = _XattrWrite(name, size, flags & _XATTR_FLAGS)
        return ()

    def _set_xattr(self, fid: _Fid, wanted: _XattrWrite) -> None:
        file = self._opened.accessible(fid.descriptor)
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

    def _reopen(self, descriptor: int, flags: int) -> int:
        try:
            return self._opened.reopen(descriptor, flags | os.O_NONBLOCK)
        except PermissionError:
            if not flags & os.O_NOATIME:
                raise
            return self._opened.reopen(descriptor, flags & ~os.O_NOATIME | os.O_NONBLOCK)

    def _truncate(self, fid: _Fid, size: int) -> None:
        with suppress(OSError):
            if fid.file >= 0:
                os.ftruncate(fid.file, _offset(size))
                return
        if not stat.S_ISREG(os.fstat(fid.descriptor).st_mode):
            raise OSError(errno.EINVAL, "only regular files have a length")
        file = self._opened.reopen(fid.descriptor, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.ftruncate(file, _offset(size))
        finally:
            os.close(file)

    def _made(self, fid: _Fid, name: bytes, gid: int) -> bytes:
        at = step(fid.descriptor, name)
        try:
            status = os.fstat(at)
            self._own(at, fid.uid, gid, status.st_mode)
            return self._mounted().qid(status)
        finally:
            os.close(at)

    def _own(self, descriptor: int, uid: int, gid: int, mode: int) -> None:
        status = os.fstat(descriptor)
        if not self._keeps_owners or (status.st_uid, status.st_gid) == (uid, gid):
            return
        change_owner(descriptor, uid, gid)
        if mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(status.st_mode):
            self._opened.change_mode(descriptor, stat.S_IMODE(mode))  # which a new owner takes away

    def _mounted(self) -> Share:
        if self._share is None:
            raise OSError(errno.EBADF, "nothing is attached")
        return self._share

    def _writable(self) -> None:
        if self._mounted().read_only:
            raise OSError(errno.EROFS, "the share is read-only")

    def _changeable(self, folder: _Fid, name: bytes) -> None:
        self._writable()
        share = self._mounted()
        if folder.at_root and share.only is not None:
            raise OSError(errno.EPERM, "only one file is shared")
        self._admit(name, at_root=folder.at_root)

    def _admit(self, name: bytes, *, at_root: bool) -> None:
        if at_root and self._mounted().only not in (None, name):
            raise OSError(errno.ENOENT, "only one file is shared")

    def _fid(self, number: int) -> _Fid:
        fid = self._fids.get(number)
        if fid is None:
            raise OSError(errno.EBADF, "no such fid")
        return fid

    def _unopened(self, number: int) -> _Fid:
        fid = self._fid(number)
        if fid.file >= 0 or fid.xattr is not None:
            raise OSError(errno.EBADF, "the fid is open already")
        return fid

    def _add(self, number: int, fid: _Fid) -> None:
        if number in self._fids or number == wire.NO_FID or len(self._fids) >= MAX_FIDS:
            fid.close()
            full = len(self._fids) >= MAX_FIDS
            raise OSError(errno.ENFILE if full else errno.EBADF, "no fid can be had")
        self._fids[number] = fid


def _file(fid: _Fid) -> int:
    if fid.file < 0:
        raise OSError(errno.EBADF, "not an open file")
    return fid.file


def _offset(number: int) -> int:
    if number > 0x7FFF_FFFF_FFFF_FFFF:
        raise OSError(errno.EINVAL, "an offset that no file has")
    return number


def _time(change: int, given: int, seconds: int, nanoseconds: int) -> tuple[int, int]:
    if not change:
        return 0, UTIME_OMIT
    if not given:
        return 0, UTIME_NOW
    if nanoseconds >= 1_000_000_000:
        raise OSError(errno.EINVAL, "a second has fewer nanoseconds")
    return seconds - (1 << 64) if seconds >> 63 else seconds, nanoseconds
