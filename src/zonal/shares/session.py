"""One client's session: from a request of 9P2000.L to its reply, by the handler of its type."""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Callable, Sequence
from typing import Final

from zonal.shares import attributes, contents, names, walking, wire, xattrs
from zonal.shares.client import Client, Handler
from zonal.shares.contents import READ_HEADER, Place
from zonal.shares.files import Opened, Share
from zonal.shares.wire import Type, WireError

log = logging.getLogger(__name__)

_HANDLERS: Final[dict[int, Handler]] = {
    **walking.HANDLERS,
    **attributes.HANDLERS,
    **contents.HANDLERS,
    **names.HANDLERS,
    **xattrs.HANDLERS,
}
_READ_HEAD = struct.Struct("<IBHI")


class Session:
    """See the module. ``close`` gives up all that it holds."""

    def __init__(
        self, find: Callable[[bytes], Share], opened: Opened, max_message: int, *, keeps_owners: bool = True
    ) -> None:
        """As of `Client`."""
        self.client = Client(find, opened, max_message, keeps_owners=keeps_owners)

    @property
    def message_size(self) -> int:
        """The most bytes that a message may have, as agreed upon."""
        return self.client.message_size

    def look_at_clock(self, now: float) -> None:
        """Tells what the monotonic clock shows, whenever requests have come."""
        self.client.now = now

    def handle(self, message: bytes) -> bytes:
        """The reply to a whole request. Never raises for what a client can send."""
        _, type_, tag = wire.HEADER.unpack_from(message)
        return self.answer(type_, tag, message)

    def answer(self, type_: int, tag: int, message: bytes) -> bytes:
        """The same, for whoever has looked at its header."""
        handler = _HANDLERS.get(type_)
        if handler is None:
            return wire.failure(tag, errno.EOPNOTSUPP)
        try:
            body = handler(self.client, message)
        except Exception as error:
            return _failure(type_, tag, error)
        return wire.HEADER.pack(len(body) + 7, type_ + 1, tag) + body

    def read_into(self, message: bytes, place: Place) -> tuple[bytes, int]:
        """For Tread: the reply, less its data, which is where ``place`` says, and how many bytes that has."""
        _, _, tag = wire.HEADER.unpack_from(message)
        try:
            count = contents.read_into(self.client, message, place)
        except Exception as error:
            return _failure(Type.READ, tag, error), 0
        return _READ_HEAD.pack(READ_HEADER + count, Type.READ + 1, tag, count), count

    def write_from(self, head: bytes, data: Sequence[memoryview], length: int) -> bytes:
        """For Twrite: the reply to a request that is in two parts."""
        _, _, tag = wire.HEADER.unpack_from(head)
        try:
            return wire.reply(Type.WRITE + 1, tag, contents.write_from(self.client, head, data, length))
        except Exception as error:
            return _failure(Type.WRITE, tag, error)

    def is_open(self, message: bytes) -> bool:
        """Whether a request is about an open file, as those two expect it."""
        return contents.is_open(self.client, message)

    def close(self) -> None:
        """Gives up every file. May be called again."""
        self.client.close()


def _failure(type_: int, tag: int, error: Exception) -> bytes:
    if isinstance(error, OSError):
        return wire.failure(tag, error.errno or errno.EIO)
    if isinstance(error, (WireError, struct.error)):
        return wire.failure(tag, errno.EINVAL)
    log.error("a request of type %d failed", type_, exc_info=error)
    return wire.failure(tag, errno.EIO)
