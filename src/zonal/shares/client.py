"""What a share server knows of one client: the share that it has attached, its fids, and what it may do.

A file's owner and mode are kept as they are: the client's kernel checks its users' rights, as it does for a disk of its
own, and what a user makes belongs to that user, by number. The client is a whole zone, with a root of its own; so what
it may do is bounded by the share, not by users.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from zonal.shares.fids import Fid, Fids, File, Folders
from zonal.shares.files import Opened, Share, change_owner, step

Handler = Callable[["Client", bytes], bytes]
"""Does what a request says, and gives the reply's body.

Raises ``OSError`` for what cannot be done, and ``WireError`` or ``struct.error`` for what is no such request.
"""


class Client:
    """See the module."""

    def __init__(
        self, find: Callable[[bytes], Share], opened: Opened, max_message: int, *, keeps_owners: bool = True
    ) -> None:
        """``find`` gives the share of an attach name, or raises ``OSError``; ``max_message`` is in bytes.

        Without ``keeps_owners`` all that is made belongs to the user who runs this, for lack of the right to give away.
        """
        self.find = find
        self.opened = opened
        self.max_message = max_message
        self.message_size = max_message
        """The most bytes that a message may have, as agreed upon."""
        self.fids = Fids()
        self.folders = Folders()
        self.attached: Share | None = None
        self.changes = 0
        """Requests to change something, so far."""
        self.now = 0.0
        """About, by the monotonic clock; whoever brings the requests sets it."""
        self._keeps_owners = keeps_owners

    @property
    def share(self) -> Share:
        """What is attached. Raises ``OSError`` when nothing is."""
        if self.attached is None:
            raise OSError(errno.EBADF, "nothing is attached")
        return self.attached

    def begin_change(self) -> Share:
        """Raises ``OSError`` unless the share may be changed."""
        share = self.share
        if share.read_only:
            raise OSError(errno.EROFS, "the share is read-only")
        self.changes += 1
        return share

    def begin_change_of(self, folder: Fid, name: bytes) -> None:
        """Raises ``OSError`` unless the folder's entry ``name`` may be made, changed and removed."""
        share = self.begin_change()
        if folder.at.at_root and share.only is not None:
            raise OSError(errno.EPERM, "only one file is shared")
        self.folders.forget(folder.at, name)

    def admit(self, folder: File, name: bytes) -> None:
        """Raises ``OSError`` unless the folder's entry ``name`` is to be seen."""
        if folder.at_root and self.share.only not in (None, name):
            raise OSError(errno.ENOENT, "only one file is shared")

    def made(self, folder: Fid, name: bytes, gid: int) -> bytes:
        """The qid of what was just made, which is given to its maker."""
        at = step(folder.at.descriptor, name)
        try:
            status = os.fstat(at)
            self.own(at, folder.uid, gid, status.st_mode)
            return self.share.qid(status)
        finally:
            os.close(at)

    def own(self, descriptor: int, uid: int, gid: int, mode: int) -> None:
        """Gives away what was just made with this mode."""
        status = os.fstat(descriptor)
        if not self._keeps_owners or (status.st_uid, status.st_gid) == (uid, gid):
            return
        change_owner(descriptor, uid, gid)
        if mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(status.st_mode):
            self.opened.change_mode(descriptor, stat.S_IMODE(mode))  # which a new owner takes away

    def close(self) -> None:
        """Gives up every file. May be called again."""
        self.fids.clear()
        self.folders.clear()
