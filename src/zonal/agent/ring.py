"""The zone's end of two byte rings in shared pages: what libxenvchan calls the server.

Layout and rules are those of Xen's public io/libxenvchan.h, struct vchan_interface: "left" carries what the host
writes, "right" what the agent writes. Indices are loaded and stored whole, by 4-byte elements of a memoryview.
"""

from __future__ import annotations

from _thread import allocate_lock

ORDER = 18
"""Each ring has 2**18 bytes, as much as a stream's window: an event to the other side costs more than the memory."""
SIZE = 1 << ORDER

NOTIFY_WRITE, NOTIFY_READ = 1, 2
"""Wishes: to be told when the other side has written, or has read."""

# Units of each field: u32 indices, then u16 orders, then bytes, then u32 grant references.
_LEFT_CONS, _LEFT_PROD, _RIGHT_CONS, _RIGHT_PROD = range(4)
_LEFT_ORDER, _RIGHT_ORDER = 8, 9
_CLI_LIVE, _SRV_LIVE, _CLI_NOTIFY, _SRV_NOTIFY = 20, 21, 22, 23
_GRANTS = 6
_CLIENT_GONE, _CLIENT_AWAITED = 0, 2  # of _CLI_LIVE
_WRAP = 0xFFFFFFFF


class ChannelClosedError(Exception):
    """The host has closed its end, or written indices that cannot be."""


class Rings:
    """``shared`` is the page with the control structure, ``rings`` the memory of both rings, left first."""

    def __init__(self, shared: memoryview, rings: memoryview, references: list[int]) -> None:
        """Makes it ready for a client; ``references`` are the grants of ``rings``."""
        self._bytes = shared
        self._words = shared.cast("I")
        self._left = rings[:SIZE]
        self._right = rings[SIZE : 2 * SIZE]
        self._lock = allocate_lock()
        self._progress = 0
        with shared.cast("H") as halves:
            halves[_LEFT_ORDER] = halves[_RIGHT_ORDER] = ORDER
        for number, reference in enumerate(references):
            self._words[_GRANTS + number] = reference
        self._bytes[_CLI_LIVE] = _CLIENT_AWAITED
        self._bytes[_SRV_LIVE] = 1
        self._bytes[_CLI_NOTIFY] = NOTIFY_WRITE

    def receive(self, limit: int) -> bytes:
        """At most ``limit`` bytes of what the host has written; raises ``ChannelClosedError`` when it has gone."""
        words = self._words
        consumed = words[_LEFT_CONS]
        # Before the index: a host writes first and leaves then.
        gone = self._bytes[_CLI_LIVE] == _CLIENT_GONE
        ready = (words[_LEFT_PROD] - consumed) & _WRAP
        if not ready:
            self._wish(NOTIFY_WRITE)
            ready = (words[_LEFT_PROD] - consumed) & _WRAP
        if not ready:
            if gone:
                raise ChannelClosedError("the host has closed the channel")
            return b""
        if ready > SIZE:
            raise ChannelClosedError(f"the host's index is {ready} bytes ahead in a ring of {SIZE}")
        count = min(ready, limit)
        start = consumed & (SIZE - 1)
        data = bytes(self._left[start : start + count])
        if len(data) < count:
            data += self._left[: count - len(data)]
        words[_LEFT_CONS] = (consumed + count) & _WRAP
        self._progress |= NOTIFY_READ
        return data

    def send(self, data: memoryview) -> int:
        """Puts as much of ``data`` into the ring as there is room for; gives how much."""
        room = self._room()
        if room < len(data):
            self._wish(NOTIFY_READ)
            room = self._room()
        count = min(room, len(data))
        if count:
            produced = self._words[_RIGHT_PROD]
            start = produced & (SIZE - 1)
            first = min(count, SIZE - start)
            self._right[start : start + first] = data[:first]
            self._right[: count - first] = data[first:count]
            self._words[_RIGHT_PROD] = (produced + count) & _WRAP
            self._progress |= NOTIFY_WRITE
        return count

    def take_wishes(self) -> bool:
        """Whether the host wants to know of what was sent and received since the last time."""
        progress, self._progress = self._progress, 0
        if not progress:
            return False
        self._order()
        # The client's wishes are in srv_notify, the server's in cli_notify.
        if not self._bytes[_SRV_NOTIFY] & progress:
            return False
        # The host looks at everything when an event comes, so one event grants all its wishes.
        self._bytes[_SRV_NOTIFY] = 0
        return True

    def close(self) -> None:
        """Marks the server as gone, and lets go of the memory."""
        self._bytes[_SRV_LIVE] = 0
        for view in (self._words, self._bytes, self._left, self._right):
            view.release()

    def _room(self) -> int:
        room = SIZE - ((self._words[_RIGHT_PROD] - self._words[_RIGHT_CONS]) & _WRAP)
        if room < 0:
            raise ChannelClosedError(f"the host's index is {-room} bytes beyond a ring of {SIZE}")
        return room

    def _wish(self, wish: int) -> None:
        """Asks the host to tell when it has written or read; what is looked at next is newer than the wish."""
        self._bytes[_CLI_NOTIFY] = self._bytes[_CLI_NOTIFY] | wish
        self._order()

    def _order(self) -> None:
        # A store followed by a load of something else may be seen the other way round by another processor. Taking a
        # lock is a locked instruction, and so a full barrier.
        self._lock.acquire()
        self._lock.release()
