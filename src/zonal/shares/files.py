"""Files of a share as descriptors: nothing is ever looked up by a path of the host's.

Each file that a client knows is held by a descriptor that gives no access by itself (O_PATH); one name at a time leads
from one to the next, symbolic links are never followed, and there is no way up. What needs more is done by way of
``/proc/self/fd``, whose links lead to the very file (proc_pid_fd(5)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from zonal.shares.wire import QID, QT_DIR, QT_FILE, QT_SYMLINK

_AT_EMPTY_PATH = 0x1000  # linux/fcntl.h
UTIME_NOW, UTIME_OMIT = 0x3FFFFFFF, 0x3FFFFFFE
"""linux/stat.h"""
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_KINDS = {stat.S_IFDIR: QT_DIR, stat.S_IFLNK: QT_SYMLINK}
_MASK = (1 << 64) - 1
_MOST = (1 << 63) - 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)
_libc.fchownat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_int)


@dataclass(slots=True)
class Share:
    """One directory that is served."""

    root: int
    """A descriptor of it (O_PATH)."""
    read_only: bool = False
    only: bytes | None = None
    """The one name that is there, when a single file is shared: ``root`` is the folder that it is in."""
    devices: dict[int, int] = field(default_factory=dict[int, int])
    """File systems below, numbered in the order in which they were met."""

    def qid(self, status: os.stat_result) -> bytes:
        """What identifies a file, and changes when its content may have (13 bytes)."""
        number = self.devices.get(status.st_dev)
        if number is None:
            number = self.devices.setdefault(status.st_dev, len(self.devices))
        mtime = status.st_mtime_ns
        version = (mtime ^ mtime >> 32 ^ status.st_size) & 0xFFFF_FFFF
        # Version 0 would mean that the file must not be cached.
        path = self.unique(status.st_ino, number)
        return QID.pack(_KINDS.get(stat.S_IFMT(status.st_mode), QT_FILE), version or 1, path)

    def is_own(self, status: os.stat_result) -> bool:
        """Whether a file is in the file system that the share itself is in."""
        return self.devices.get(status.st_dev) == 0

    @staticmethod
    def unique(inode: int, device: int) -> int:
        """64 bits that no other file of the share is likely to have, also when file systems are mounted in it.

        Linux's client adds 2 for the inode number that it shows (fs/9p, ``QID2INO``). So a zone sees the host's
        numbers, and what remembers files by them, such as git, knows them again.
        """
        return (inode - 2 + device * _GOLDEN) & _MASK


class Opened:
    """The files of this process, reopened and changed through ``/proc/self/fd``."""

    def __init__(self) -> None:
        self._folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def reopen(self, descriptor: int, flags: int) -> int:
        """The same file, with access."""
        return os.open(str(descriptor), flags | os.O_CLOEXEC, dir_fd=self._folder)

    def change_mode(self, descriptor: int, mode: int) -> None:
        """chmod(2); of a symbolic link there is none."""
        if stat.S_ISLNK(os.fstat(descriptor).st_mode):
            raise OSError(errno.EOPNOTSUPP, "a symbolic link has no mode")
        os.chmod(str(descriptor), mode, dir_fd=self._folder)

    def link(self, descriptor: int, folder: int, name: bytes) -> None:
        """linkat(2) of a file that is known by its descriptor alone."""
        os.link(str(descriptor), name, src_dir_fd=self._folder, dst_dir_fd=folder, follow_symlinks=True)

    def accessible(self, descriptor: int) -> int:
        """A descriptor for calls that take none of O_PATH, such as fgetxattr(2): of regular files and folders only."""
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EOPNOTSUPP, "neither a file nor a folder")
        return self.reopen(descriptor, os.O_RDONLY | os.O_NONBLOCK)


def step(folder: int, name: bytes) -> int:
    """The file of that name, not followed."""
    return os.open(name, _PATH, dir_fd=folder)


def change_owner(descriptor: int, uid: int, gid: int) -> None:
    """fchownat(2) of the very file, symbolic links too; -1 keeps one of them."""
    flags = _AT_EMPTY_PATH
    _check(_libc.fchownat(descriptor, b"", uid & 0xFFFF_FFFF, gid & 0xFFFF_FFFF, flags))


def change_times(descriptor: int, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat(2): pairs of seconds and nanoseconds, or of anything and `UTIME_NOW` or `UTIME_OMIT`."""
    times = (ctypes.c_long * 4)(*atime, *mtime)
    _check(_libc.utimensat(descriptor, b"", times, _AT_EMPTY_PATH))


class Listing:
    """A folder's entries, read on as they are asked for.

    An entry's offset is its place in the order in which the folder gave them.
    """

    def __init__(self, descriptor: int, share: Share, at_root: bool) -> None:
        self._descriptor = descriptor
        self._share = share
        self._at_root = at_root
        self._next = 0
        self._held: tuple[bytes, bytes, int] | None = None
        self._entries = self._begin()

    def seek(self, offset: int) -> None:
        """Goes on after the entry with this offset; 0 begins anew."""
        if offset == self._next:
            return
        if offset < self._next:
            self._held = None
            self._entries = self._begin()
            self._next = 0
        while self._next < offset and self.take() is not None:
            pass

    def take(self) -> tuple[bytes, bytes, int] | None:
        """The next: name, qid, and d_type of readdir(3)."""
        held, self._held = self._held, None
        entry = held or next(self._entries, None)
        if entry is not None:
            self._next += 1
        return entry

    def give_back(self, entry: tuple[bytes, bytes, int]) -> None:
        """For an entry that did not fit any more."""
        self._held = entry
        self._next -= 1

    @property
    def offset(self) -> int:
        """That of the entry taken last."""
        return self._next

    def _begin(self) -> Iterator[tuple[bytes, bytes, int]]:
        share = self._share
        own = share.qid(os.fstat(self._descriptor))
        yield b".", own, stat.S_IFDIR >> 12
        yield b"..", own, stat.S_IFDIR >> 12
        number = share.devices[os.fstat(self._descriptor).st_dev]
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        with os.scandir(self._descriptor) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if self._at_root and share.only not in (None, name):
                    continue
                kind, type_ = QT_FILE, 0
                if entry.is_symlink():
                    kind, type_ = QT_SYMLINK, stat.S_IFLNK >> 12
                elif entry.is_dir(follow_symlinks=False):
                    kind, type_ = QT_DIR, stat.S_IFDIR >> 12
                elif entry.is_file(follow_symlinks=False):
                    type_ = stat.S_IFREG >> 12
                yield name, QID.pack(kind, 1, share.unique(entry.inode(), number)), type_


def offset(number: int) -> int:
    """One that a file can have. Raises ``OSError`` for others."""
    if number > _MOST:
        raise OSError(errno.EINVAL, "an offset that no file has")
    return number


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
