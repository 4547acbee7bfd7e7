"""What a client calls a fid: a number for a file that it knows, and may have opened.

Fids of the same file that come from one another share its descriptor, so that the copies which clients make all the
time cost nothing.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from typing import Final

from zonal.shares.files import Listing
from zonal.shares.wire import NO_FID

MAX_FIDS: Final = 65536
"""Files that a client may know of at once; each is a descriptor."""
MAX_REMEMBERED: Final = 1024
"""Folders whose descriptors are kept beyond their fids."""


class File:
    """A file of the share by a descriptor (O_PATH), which is closed with its last user."""

    __slots__ = ("at_root", "descriptor", "identity", "users")

    def __init__(self, descriptor: int, identity: tuple[int, int], *, at_root: bool = False) -> None:
        self.descriptor = descriptor
        self.identity = identity
        """Device and inode, which no other file has as long as the descriptor is open."""
        self.at_root = at_root
        """Whether it is the folder that is shared."""
        self.users = 1

    def use(self) -> File:
        """For one more user."""
        self.users += 1
        return self

    def let_go(self) -> None:
        """For one user less."""
        self.users -= 1
        if not self.users:
            os.close(self.descriptor)


class XattrWrite:
    """An extended attribute that is being written, and set when its fid is given up."""

    __slots__ = ("flags", "name", "size", "value")

    def __init__(self, name: bytes, size: int, flags: int) -> None:
        self.name = name
        self.size = size
        self.flags = flags
        self.value = bytearray()


class Fid:
    """See the module."""

    __slots__ = ("at", "file", "listing", "seen", "uid", "xattr")

    def __init__(self, at: File, uid: int) -> None:
        """``at`` is given up with this."""
        self.at = at
        self.uid = uid
        self.file = -1
        """Its descriptor, when it is open."""
        self.listing: Listing | None = None
        self.xattr: bytes | XattrWrite | None = None
        self.seen: tuple[os.stat_result, int, float] | None = None
        """What a walk to it has just seen, at which count of changes, and when."""

    @property
    def opened(self) -> int:
        """Its descriptor. Raises ``OSError`` when it is not open."""
        if self.file < 0:
            raise OSError(errno.EBADF, "not an open file")
        return self.file

    def close(self) -> None:
        """To be called once."""
        self.at.let_go()
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


class Fids:
    """A client's fids by number. Its methods raise ``OSError`` for numbers that cannot be meant."""

    def __init__(self) -> None:
        self.by_number: dict[int, Fid] = {}

    def get(self, number: int) -> Fid:
        """One that is there."""
        fid = self.by_number.get(number)
        if fid is None:
            raise OSError(errno.EBADF, "no such fid")
        return fid

    def unopened(self, number: int) -> Fid:
        """One that is there, and has not been opened."""
        fid = self.get(number)
        if fid.file >= 0 or fid.xattr is not None:
            raise OSError(errno.EBADF, "the fid is open already")
        return fid

    def put(self, number: int, fid: Fid, *, instead_of: int = NO_FID) -> None:
        """Under a new number, or that of the one that it takes the place of. Closes it when that cannot be."""
        if number == instead_of:
            self.by_number.pop(number).close()
        full = len(self.by_number) >= MAX_FIDS
        if number in self.by_number or number == NO_FID or full:
            fid.close()
            raise OSError(errno.ENFILE if full else errno.EBADF, "no fid can be had")
        self.by_number[number] = fid

    def free(self, number: int) -> None:
        """Raises unless a new fid can have this number."""
        if number in self.by_number:
            raise OSError(errno.EBADF, "the fid is in use")

    def drop(self, number: int) -> None:
        """Forgets one that is there."""
        self.by_number.pop(number).close()

    def clear(self) -> None:
        """Forgets all of them."""
        for fid in self.by_number.values():
            fid.close()
        self.by_number.clear()


class Folders:
    """Folders that were walked through, since clients walk through the same ones for every file.

    A hint only: whoever takes one looks whether it still has that name. Just those of the shared folder's own file
    system, so that others can be unmounted in the host.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[File, bytes], File] = OrderedDict()

    def find(self, parent: File, name: bytes) -> File | None:
        """The folder that had this name."""
        return self._known.get((parent, name))

    def remember(self, parent: File, name: bytes, folder: File) -> None:
        """In place of what had the name."""
        self.forget(parent, name)
        if len(self._known) >= MAX_REMEMBERED:
            (oldest, _), child = self._known.popitem(last=False)
            oldest.let_go()
            child.let_go()
        self._known[parent.use(), name] = folder.use()

    def forget(self, parent: File, name: bytes) -> None:
        """What has no longer this name."""
        child = self._known.pop((parent, name), None)
        if child is not None:
            parent.let_go()
            child.let_go()

    def clear(self) -> None:
        """Forgets all of them."""
        while self._known:
            (parent, _), child = self._known.popitem()
            parent.let_go()
            child.let_go()
